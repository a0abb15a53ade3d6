"""An environment for each package compared with, from versions pinned in `peers/requirements`."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import home

PEERS = Path(__file__).with_name("peers")
REQUIREMENTS = PEERS / "requirements"


@dataclass(frozen=True)
class Peer:
    """A package compared with: its script, its solvers, and what it needs besides Python.

    `predicts` says that its factors predict ratings, so that J and RMSE can be judged of them.
    """

    name: str
    title: str
    script: str
    solvers: tuple[str, ...] = ("",)
    predicts: bool = True
    needs: str | None = None


PEERS_BY_NAME = {
    peer.name: peer
    for peer in (
        Peer("lenskit", "LensKit", "lenskit_als.py"),
        Peer("cmfrec", "cmfrec", "cmfrec_als.py", ("cholesky", "cg")),
        Peer("implicit", "implicit", "implicit_als.py", ("cholesky", "cg"), predicts=False),
        Peer("spark", "Spark", "spark_als.py", needs="java"),
        Peer("surprise", "Surprise", "surprise_sgd.py"),
        Peer("libmf", "LIBMF", "libmf_sgd.py"),
    )
}


def python_of(name: str) -> Path:
    """The interpreter of a package's environment."""
    return home() / "env" / name / "bin" / "python"


def install(name: str, say: Callable[[str], None]) -> str | None:
    """Make a package's environment, if it is not there as pinned; the reason if it cannot be."""
    peer = PEERS_BY_NAME[name]
    if peer.needs and shutil.which(peer.needs) is None:
        return f"{peer.needs} is not installed (Debian: apt-get install default-jre-headless)"
    pinned = REQUIREMENTS / f"{name}.txt"
    mark = home() / "env" / name / f"installed-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:16]}"
    if mark.is_file():
        return None
    say(f"installing {peer.title} into {python_of(name).parents[1]}")
    directory = home() / "env" / name
    pip = [python_of(name), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-r", pinned]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", directory], pip):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = re.findall(r"(?mi)^ *(?:error|.*no matching distribution).*", error.stderr) or [error.stderr]
        return f"cannot be installed: {' '.join(lines[0].split())[:300]}"
    mark.touch()
    return None


def pinned_version(name: str) -> str:
    """The line of the requirements that is the package itself."""
    return (REQUIREMENTS / f"{name}.txt").read_text().split("\n", 1)[0]
