"""What docs/security.md promises: who can reach a run, who can read its files, what a text can do."""

import ast
import os
import stat
from pathlib import Path

import pytest

from mfpipe.addresses import require_cluster, require_dashboard
from mfpipe.cli import main
from mfpipe.errors import ParameterError, RatingsError
from mfpipe.job import Place
from mfpipe.printable import printable
from mfpipe.ratings import Rules, ingest
from tests.make import write

ROOT = Path(__file__).parents[2]
LINES = "user,item,rating\n" + "".join(f"{n % 9},{n % 11},{1 + n % 5}\n" for n in range(90))
EVIL = "\x1b]0;owned\x07\x1b[2J\u202etxt\u2028"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in an empty directory; its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


# Who can reach it


@pytest.mark.parametrize(
    "address", [":8787", "0.0.0.0:8787", "[::]:0", "192.168.1.4:0", "myhost:8787", "127.0.0.1.evil.org:1", "localhost.evil.org:1"]
)  # fmt: skip
def test_a_dashboard_for_other_machines_takes_a_flag(address):
    with pytest.raises(ParameterError, match=r"--dashboard-address .*for other machines too.*--allow-remote"):
        Place(dashboard_address=address)
    assert Place(dashboard_address=address, allow_remote=True).dashboard_address == address


@pytest.mark.parametrize(
    "address", ["8787", "", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:x", "a b:1", "http://127.0.0.1:1"]
)  # fmt: skip
@pytest.mark.parametrize("allowed", [False, True])
def test_a_dashboard_address_that_is_none_is_refused(address, allowed):
    with pytest.raises(ParameterError, match="--dashboard-address .*must be HOST:PORT"):
        require_dashboard(address, allowed)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:8787", "[::1]:8787", "127.8.8.8:1"])
def test_loopback_needs_no_flag(address):
    require_dashboard(address)
    require_cluster("tcp://" + address)


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:8786", "tcp://head-node:8786", "tcp://[2001:db8::1]:8786", "ws://0.0.0.0:1", "tcp://10.0.0.1", "ucx://10.0.0.1:1"]
)  # fmt: skip
def test_another_machine_takes_tls_or_a_flag(address):
    with pytest.raises(ParameterError, match=r"--cluster .*unencrypted; use tls://.* --allow-remote"):
        Place(address)
    assert Place(address, allow_remote=True).cluster == address
    assert Place("tls://" + address.partition("://")[2])


def test_the_command_line_refuses_before_anything_is_opened_and_knows_the_flag(run, tmp_path):
    for given in (("--cluster", "tcp://10.255.0.1:1"), ("--dashboard-address", "0.0.0.0:0")):
        code, out, err = run("train", "no-such-file.csv", *given)
        assert (code, out) == (2, "")
        assert f"{given[0]} {given[1]!r}" in err
        assert run("train", "no-such-file.csv", *given, "--allow-remote")[0] == 3  # goes on to the file
    assert list(tmp_path.iterdir()) == []


def test_tls_without_certificates_is_said(run, tmp_path):
    source = write(tmp_path / "r.csv", LINES)
    code, _, err = run("train", source, "--cluster", "tls://127.0.0.1:9", "-q")
    assert code == 2
    assert "--cluster tls://127.0.0.1:9: Dask has no certificate" in err


# Who can read it


def test_files_are_for_owner_and_group_only(run, tmp_path):
    before = os.umask(0o022)
    try:
        source = write(tmp_path / "r.csv", LINES + "1,2,x\n")
        pairs = write(tmp_path / "p.csv", "user,item\n1,2\n")
        accept = ("--max-bad-fraction", "0.5", "--cluster", "serial")
        assert run("train", source, *accept, "--name", "m", "--max-iter", 2, "--store", "s")[0] == 0
        assert run("ingest", source, "--max-bad-fraction", "0.5", "--out", "d")[0] == 0
        assert run("predict", "m", pairs, "--store", "s", "-o", "o.csv")[0] == 0
        assert run("report", "m", "--store", "s", "-o", "o.html")[0] == 0
        path = ("path", source, "--lambdas", "2", "--max-iter", 2, *accept, "--store", "s", "-o", "p.html")
        assert run(*path)[0] == 0
    finally:
        os.umask(before)
    made = [p for p in tmp_path.rglob("*") if str(p) not in (source, pairs)]
    assert len(made) > 20
    for name in ("o.csv", "o.html", "p.html", "d-quarantine.csv"):
        assert tmp_path / name in made
    assert any("quarantine" in path.parts for path in made)
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o750 if path.is_dir() else 0o640), f"{path}: {mode:o}"


def test_a_store_holds_parquet_and_json_and_nothing_here_unpickles(run, tmp_path):
    source = write(tmp_path / "r.csv", LINES)
    assert run("train", source, "--cluster", "serial", "--max-iter", 2)[0] == 0
    for path in (tmp_path / "mfpipe-store").rglob("*"):
        assert path.is_dir() or path.suffix in (".parquet", ".json") or path.name in ("current", ".lock")
    for path in (ROOT / "mfpipe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {
                "pickle",
                "cloudpickle",
                "joblib",
                "marshal",
                "shelve",
            }


# What a text can do


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 日本", "plain, é, 日本"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nmfpipe: done", "a\\nmfpipe: done"),
        ("\u202eexe", "\\u202eexe"),
        ("\x9b1m", "\\x9b1m"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_printable_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown


def harmless(text):
    return all(c.isprintable() or c == "\n" for c in text)


def test_names_and_messages_cannot_act_on_the_terminal(run, tmp_path):
    folder = tmp_path / EVIL
    folder.mkdir()
    source = write(folder / "r.csv", LINES + "1,2,x\n")
    code, out, err = run("train", source, "--cluster", "serial", "--max-iter", 2, "--store", folder / "s",
                         "--max-bad-fraction", "0.5")  # fmt: skip
    assert code == 0
    assert "\\x1b]0;owned" in out
    assert "\\x1b]0;owned" in err
    assert harmless(out)
    assert harmless(err)
    code, out, err = run("train", folder / "missing.csv")
    assert code == 3
    assert harmless(out + err)
    code, out, err = run("train", write(tmp_path / "e.csv", f"user,item,rating\n{EVIL},1,x\n"))
    assert code == 3
    assert harmless(out + err)


def test_an_id_cannot_act_on_the_terminal(run, tmp_path):
    ids = ["\u202egpj.exe", "[bold]x[/bold]", ":smile:", "\u200bhidden"]
    source = write(tmp_path / "r.csv", "user,item,rating\n" + "".join(f"{i},{i},3\n" for i in ids))
    code, out, _ = run(
        "compare", source, "--test", source, "--cluster", "serial", "--record", 0, "--model", "user-mean"
    )
    assert code == 0
    assert "user \\u202egpj.exe, item \\u202egpj.exe" in out
    assert harmless(out)
    assert "user [bold]x[/bold]" in run("compare", source, "--test", source, "--cluster", "serial",
                                        "--record", 1, "--model", "user-mean")[1]  # fmt: skip


def test_no_text_of_ours_is_html_in_a_report(run, tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    ids = [SCRIPT, "</script>", "<b>", "&amp;"]
    rows = "".join(f"{a},{b},{1 + len(a + b) % 5}\n" for a in ids for b in ids)
    source = write(folder / "r.csv", "user,item,rating\n" + rows)
    assert run("train", source, "--cluster", "serial", "--name", "m", "--max-iter", 2, "--rank", 1)[0] == 0
    assert run("report", "m", "-o", "r.html")[0] == 0
    html = (tmp_path / "r.html").read_text()
    assert "<img src=x" not in html
    assert "onerror=alert(1)&gt;" in html
    assert SCRIPT not in html


def test_a_system_label_is_text_in_a_report():
    from bokeh.embed import components

    from mfpipe import plots

    row = {"label": f"</script>{SCRIPT}", "test_rmse": 1.0, "test_rmse_warm": 1.0, "test_rmse_cold": None}
    script, _ = components([plots.systems([row])])
    assert "alert(1)" in script
    assert SCRIPT not in script


def test_the_quarantine_holds_no_escape_and_one_line_for_each_fault(tmp_path):
    source = write(tmp_path / "r.csv", f'user,item,rating\n1,1,3\n"a\nb{EVIL}",1,3\n2,1,{EVIL}\n')
    _, report = ingest([source], Rules(max_bad_fraction=1), tmp_path / "q.csv")
    text = (tmp_path / "q.csv").read_text()
    assert report.rejected == 2
    assert harmless(text)
    assert len(text.splitlines()) == 3


# What is not opened


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/r.csv", "s3://bucket/r.csv", "file:///etc/passwd", "https://x/a?b=*.csv"]
)
def test_remote_addresses_are_not_fetched(url):
    with pytest.raises(RatingsError, match="mfpipe reads local files only"):
        ingest([url])


@pytest.mark.parametrize("inner", ["r.csv", "../../escaped.csv", "/tmp/escaped.csv"])
def test_archives_are_never_extracted(tmp_path, inner):
    import tarfile
    import zipfile

    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "r.zip", "w") as archive:
        archive.writestr(inner, LINES)
        archive.writestr("second.csv", LINES)
    with tarfile.open(tmp_path / "in" / "r.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(inner)
        tar.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    for name, message in (
        ("r.zip", "a zip archive; unpack it first"),
        ("r.tar.gz", "a tar archive; unpack it"),
    ):
        with pytest.raises(RatingsError, match=message):
            ingest([tmp_path / "in" / name])
    assert sorted(tmp_path.rglob("*")) == before
