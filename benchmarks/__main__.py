"""Run the benchmark, and write results.json and report.html.

python -m benchmarks                     # everything; hours
python -m benchmarks --plan must-show    # the figures that must be shown
python -m benchmarks --plan quick        # every section on small data, minutes
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import mfpipe
from benchmarks import data, homework, machine, overhead, plan, whole
from benchmarks.environments import PEERS, PEERS_BY_NAME, install, pinned_version, python_of
from benchmarks.judge import judge
from benchmarks.measure import Case, interleave, run
from benchmarks.report import write_report


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--plan", choices=("full", "must-show", "quick"), default="full")
    parser.add_argument("--quick", action="store_const", const="quick", dest="plan", help="--plan quick")
    parser.add_argument("--sets", type=_names, help=f"of {','.join(data.NAMES)} (full plan only)")
    parser.add_argument("--ranks", type=_numbers, help="default: 16,64,128 (full plan only)")
    parser.add_argument(
        "--peers", type=_names, help=f"of {','.join(PEERS_BY_NAME)}, or none; default: the plan's"
    )
    parser.add_argument("--repeats", type=int, help="interleaved rounds; default: the plan's")
    parser.add_argument("--sections", type=_names, help="run these anew; results.json keeps its others")
    parser.add_argument(
        "--resume", action="store_true", help="keep the sections that results.json already has"
    )
    parser.add_argument("--out", type=Path, help="default: $MFPIPE_BENCH/results, build/bench/results")
    options = parser.parse_args(words)
    for name in options.sets or ():
        if name not in data.NAMES:
            parser.error(f"--sets {name}: must be of {', '.join(data.NAMES)}")
    for name in options.peers or ():
        if name not in PEERS_BY_NAME:
            parser.error(f"--peers {name}: must be of {', '.join(PEERS_BY_NAME)}, or none")
    return options


def _names(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main(words: list[str] | None = None) -> None:
    """Run every section of the plan, writing what there is after each."""
    options = arguments(words)
    out = options.out or data.home() / "results"
    out.mkdir(parents=True, exist_ok=True)
    peers = list(PEERS_BY_NAME) if options.peers is None else options.peers
    chosen = _plan(options, peers)
    wanted = [name for name in PEERS_BY_NAME if name in chosen.peers and name in peers]
    reasons = {name: install(name, say) for name in wanted}
    usable = [name for name in wanted if reasons[name] is None]
    before = out / "results.json"
    keeps = options.resume or (options.sections and before.exists())
    kept = json.loads(before.read_text()) if keeps else {}
    if kept and kept["plan"] != chosen.name:
        raise SystemExit(f"{before} is of --plan {kept['plan']}: give another --out")
    results = kept or {
        "format": 1,
        "mfpipe": mfpipe.__version__,
        "command": "python -m benchmarks " + " ".join(sys.argv[1:] if words is None else words),
        "plan": chosen.name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.described(),
        "peers": [_peer(name, reasons.get(name, "not chosen")) for name in PEERS_BY_NAME],
        "sections": {},
        "seconds": {},
    }
    work = _sections(chosen, usable, options.repeats or chosen.repeats, results)
    for name in options.sections or ():
        if name not in work:
            raise SystemExit(f"--sections {name}: must be of {', '.join(work)}")
    done = results["sections"] if options.resume else ()
    todo = [name for name in work if name in (options.sections or work) and name not in done]
    _warm([case for case in _cases(chosen) if case.section.split(" ")[0] in todo])
    for name in todo:
        say(f"== {name}")
        began = time.perf_counter()
        results["sections"][name] = work[name]()
        results["seconds"][name] = time.perf_counter() - began
        _write(results, out)
    _write(results, out)
    say(f"{out / 'report.html'} and {out / 'results.json'} written")


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _plan(options, peers: list[str]) -> plan.Plan:
    if options.plan == "quick":
        return plan.quick(peers)
    if options.plan == "must-show":
        return plan.must_show()
    default = ["100k", "2m", "10m", "30m"] + (["homework"] if data.available("homework") else [])
    return plan.full(options.sets or default, options.ranks or [16, 64, 128], peers)


def _peer(name: str, reason: str | None) -> dict:
    peer = PEERS_BY_NAME[name]
    return {"name": name, "title": peer.title, "version": pinned_version(name), "not_run": reason}


def _sections(chosen: plan.Plan, usable: list[str], repeats: int, results: dict) -> dict:
    """What each section does, in order; a later one may need what an earlier one found."""
    present = {"mfpipe", *usable}
    sets = sorted({case.set for case in _cases(chosen)}, key=data.NAMES.index)
    work = {
        "sets": lambda: [data.described(name) for name in sets],
        "roofline": lambda: _roofline(chosen, 2 * repeats + 1),
    }
    for name, groups in chosen.groups.items():
        work[name] = partial(_groups, groups, present, repeats, chosen)
    work["reach"] = partial(_groups, [chosen.reach], present, 1, chosen)
    if chosen.whole:
        work["whole"] = lambda: whole.from_csv(
            chosen.whole["set"],
            chosen.whole["rank"],
            results["sections"].get("reach", []),
            repeats,
            say,
            chosen.most_seconds,
            chosen.limit,
        )
    work["homework"] = lambda: homework.measured(chosen.homework_runs, usable, say)
    work["overhead"] = lambda: overhead.measured(rounds=1 if chosen.name == "quick" else 3)
    return work


def _cases(chosen: plan.Plan) -> list[Case]:
    grouped = [case for groups in chosen.groups.values() for group in groups for case in group]
    return grouped + chosen.reach


def _warm(cases: list[Case]) -> None:
    """Have every kernel compiled before anything is measured; each run says itself what it still took."""
    ways = {
        tuple((name, c.option(name)) for name in ("model", "dtype", "solver") if c.option(name))
        for c in cases
        if c.system == "mfpipe"
    }
    for options in sorted(ways):
        found = run(case := Case("mfpipe", "tiny", 4, 2, options=options), _command(case, None))
        if "failed" in found:
            raise SystemExit(f"mfpipe does not run here with {dict(options)}: {found['failed']}")


def _roofline(chosen: plan.Plan, repeats: int) -> dict:
    rates = machine.measured(list(chosen.machine_ranks), repeats, chosen.name == "quick")
    pairs = {(case.set, case.rank) for case in _cases(chosen) if case.section == "peers"}
    needs = []
    for name, rank in sorted(pairs, key=lambda pair: (data.NAMES.index(pair[0]), pair[1])):
        needs.append(
            {"set": name, "rank": rank, **machine.arithmetic(data.load(data.triples_file(name)), rank)}
        )
    return {"rates": rates, "needs": needs}


def _groups(groups: list[list[Case]], present: set[str], repeats: int, chosen: plan.Plan) -> list[dict]:
    run_one = partial(run_case, limit=chosen.limit)
    rows = []
    for group in groups:
        cases = [case for case in group if case.system in present]
        rows += interleave(cases, run_one, repeats, chosen.most_seconds, say)
    return rows


def run_case(case: Case, repeat: int, limit: float) -> dict:
    """Run a case, and the first time judge the factors it ends with."""
    with tempfile.TemporaryDirectory(prefix="mfpipe-bench-") as made:
        factors = Path(made) / "factors.npz"
        keeps = repeat == 0 and case.section in ("peers", "models")
        words = _command(case, factors if keeps else None)
        found = run(case, words, whole.environment(case.system, case.threads), limit)
        predicts = case.system == "mfpipe" or PEERS_BY_NAME[case.system].predicts
        if keeps and predicts and "failed" not in found:
            triples = data.load(data.triples_file(case.set))
            found["quality"] = judge(factors, triples, case.regularization)
    return found


def _command(case: Case, factors: Path | None) -> list[str]:
    if case.system == "mfpipe":
        start = [sys.executable, "-m", "benchmarks.ours"]
    else:
        start = [str(python_of(case.system)), str(PEERS / PEERS_BY_NAME[case.system].script)]
    words = {
        "ratings": data.triples_file(case.set),
        "rank": case.rank,
        "iterations": case.iterations,
        "regularization": case.regularization,
        "threads": case.threads,
        **({"factors": factors} if factors else {}),
        **dict(case.options),
    }
    return start + [word for name, value in words.items() for word in (f"--{name}", str(value))]


def _write(results: dict, out: Path) -> None:
    aside = out / ".results.json"
    aside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    aside.replace(out / "results.json")
    write_report(results, out / "report.html")


if __name__ == "__main__":
    main()
