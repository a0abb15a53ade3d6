"""Where mfpipe may listen, and whom it may talk to without being told that it may.

Whoever reaches a Dask scheduler or worker can have it run any code, and whoever reaches a dashboard can
read what it shows. So everything is on loopback unless the person who starts it says otherwise.
"""

from __future__ import annotations

import ipaddress
import re

from mfpipe.errors import ParameterError

PLACES = ("serial", "threads", "local")
_BIND = re.compile(r"(?P<host>[^:\[\]/@\s]*|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})", re.ASCII)
_SCHEDULER = re.compile(r"(?P<protocol>[a-z]+)://(?P<rest>[^\s/@]+)", re.ASCII)
WITHIN = ("inproc",)  # a scheduler in this very process
ENCRYPTED = ("tls", "wss")


def require_dashboard(text: str, allow_remote: bool = False) -> None:
    """ParameterError unless a page may listen at HOST:PORT.

    Parameters
    ----------
    text : str
        Without a host, or with 0.0.0.0, it would be every address of the machine.
    allow_remote : bool
        Whether other machines may reach it.
    """
    match = _BIND.fullmatch(text)
    if not match or int(match["port"]) > 65535:
        raise ParameterError(f"--dashboard-address {text!r}: must be HOST:PORT, such as 127.0.0.1:8787")
    if not allow_remote and not is_loopback(match["host"]):
        where = repr(match["host"]) if match["host"] else "every address"
        raise ParameterError(
            f"--dashboard-address {text!r}: would listen on {where}, for other machines too; "
            f"give 127.0.0.1:{match['port']}, or add --allow-remote"
        )


def require_cluster(text: str, allow_remote: bool = False) -> None:
    """ParameterError unless `text` is a place to run in that may be used.

    Parameters
    ----------
    text : str
        `serial`, `threads`, `local`, or a scheduler's address.
    allow_remote : bool
        Whether an address of another machine may do without TLS.
    """
    if text in PLACES:
        return
    match = _SCHEDULER.fullmatch(text)
    if not match:
        raise ParameterError(
            f"--cluster {text!r}: must be serial, threads, local or a scheduler's address "
            "such as tcp://127.0.0.1:8786"
        )
    if allow_remote or match["protocol"] in WITHIN + ENCRYPTED:
        return
    bind = _BIND.fullmatch(match["rest"])
    if not is_loopback(bind["host"] if bind else match["rest"]):
        raise ParameterError(
            f"--cluster {text!r}: ratings and code would travel to another machine unencrypted; "
            f"use tls://{match['rest']}, or add --allow-remote where the network is trusted"
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone; other names than `localhost` are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
