"""The command that shows a store's history: a page that keeps itself up to date, or a copy of it in files."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from mfpipe.arguments import add_store
from mfpipe.errors import ParameterError
from mfpipe.printer import Printer


def register(command) -> None:
    dashboard = command("dashboard", _dashboard, "the history of a store, kept up to date", add_store)
    dashboard.add_argument(
        "--dashboard-address",
        default="127.0.0.1:8788",
        metavar="HOST:PORT",
        help="where it listens; port 0 takes a free one (default: %(default)s)",
    )
    dashboard.add_argument("--allow-remote", action="store_true", help="let it listen to other machines")
    dashboard.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="write the pages into DIR instead, to be opened offline",
    )


def _dashboard(options, printer: Printer) -> None:
    from mfpipe.addresses import require_dashboard
    from mfpipe.store import Store

    require_dashboard(options.dashboard_address, options.allow_remote)
    store = Store(options.store)
    if options.export is not None:
        from mfpipe.dashboards.history.export import export

        printer.out.print(str(export(store, options.export)), soft_wrap=True)
        return
    from mfpipe.dashboards.history.server import serving

    hosts = {"hosts": ".*"} if options.allow_remote else {}
    with _listening(options.dashboard_address) as listening, serving(store, listening, **hosts):
        host, port = listening.getsockname()[:2]
        printer.out.print(f"history of {store.path} at http://{_shown(host)}:{port}", soft_wrap=True)
        printer.out.file.flush()
        threading.Event().wait()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM,
                                   flags=socket.AI_PASSIVE)  # fmt: skip
        family, *_, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=128)
    except OSError as error:
        raise ParameterError(
            f"--dashboard-address {address!r}: cannot listen there ({error.strerror or error}); "
            "port 0 takes a free one"
        ) from error
