"""The command that serves a stored model over HTTP."""

from __future__ import annotations

import logging
import socket

from mfpipe.arguments import add_model_name, add_store
from mfpipe.errors import ParameterError
from mfpipe.printer import Printer

log = logging.getLogger("mfpipe")


def register(command) -> None:
    serve = command(
        "serve", _serve, "answer over HTTP, following the current version", add_model_name, add_store
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")


def _serve(options, printer: Printer) -> None:
    from mfpipe.store import Store, parse_name

    name = parse_name(options.name)
    if not 0 <= options.port <= 65535:
        raise ParameterError(f"--port {options.port}: must lie between 0 and 65535")
    try:
        import uvicorn

        from mfpipe.serving import Watched, application
    except ModuleNotFoundError as error:
        raise ParameterError(f"serve needs {error.name}: pip install 'mfpipe[serve]'") from error
    from threadpoolctl import threadpool_limits

    watched = Watched(Store(options.store), *name)
    try:
        listening = socket.create_server((options.host, options.port), backlog=2048)
    except OSError as error:
        raise ParameterError(
            f"--host {options.host} --port {options.port}: cannot listen there ({error.strerror or error})"
        ) from error
    # Inherited by every connection. Without it an answer's second packet waits 40 ms for an acknowledgement,
    # and asyncio sets it only on sockets that say TCP by number.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = listening.getsockname()[:2]
    about = watched.served.about
    with listening, threadpool_limits(1):
        printer.out.print(
            f"serving {about['name']}@{about['version']} at http://{host}:{port}", soft_wrap=True
        )
        printer.out.file.flush()
        settings = uvicorn.Config(application(watched), log_level="warning", access_log=False)
        uvicorn.Server(settings).run(sockets=[listening])
