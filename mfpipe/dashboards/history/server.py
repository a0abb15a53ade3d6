"""The history of a store over HTTP: pages to read, and one line that says whether they are out of date."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from mfpipe.dashboards.history.links import Links
from mfpipe.dashboards.history.moved import Comparisons
from mfpipe.dashboards.history.pages import PAGES, Asked, Content, assets, render
from mfpipe.dashboards.history.reading import History
from mfpipe.errors import MfpipeError, ParameterError, StoreError
from mfpipe.store import Store

log = logging.getLogger(__name__)

KEPT_PAGES = 12  # of about a megabyte for a thousand versions
LOOPBACK = r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?"
UNREADABLE = "unreadable"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


async def _aside(call: Callable[..., Any], *given: Any) -> Any:
    """What a call returns, made in a thread that neither other requests nor the process's end wait for.

    Those of an executor are waited for at the end, and a comparison may take longer than one may wait then.
    """
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def settle(how: Callable[[Any], Any], outcome: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed, and with it whoever would have been answered
            loop.call_soon_threadsafe(lambda: done.cancelled() or how(outcome))

    def run() -> None:
        try:
            made = call(*given)
        except Exception as error:
            settle(done.set_exception, error)
        else:
            settle(done.set_result, made)

    threading.Thread(target=run, name="mfpipe-page", daemon=True).start()
    return await done


class _Handler(RequestHandler):
    def initialize(self, served: Served) -> None:
        self.served = served

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        self.set_header("Content-Security-Policy", _POLICY)

    def write_error(self, status_code: int, **about: Any) -> None:
        self.finish(self.served.said(self._reason, "The server's log has more."))


class _Page(_Handler):
    async def get(self, name: str) -> None:
        given = {key: self.get_query_argument(key) for key in self.request.query_arguments}
        status, html = await _aside(self.served.page, name, given)
        if name == "report":  # its scripts are inside it, and it loads nothing
            policy = _POLICY.replace("script-src 'self'", "script-src 'unsafe-inline'")
            self.set_header("Content-Security-Policy", policy)
        self.set_status(status)
        self.finish(html)


class _State(_Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(await _aside(self.served.state))


class _Asset(_Handler):
    async def get(self, name: str) -> None:
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")  # asked for each time, and 304 while it is the same
        self.finish(self.served.assets[name])


class _Once:
    """HTML that is made when it is first asked for, and waited for by others who ask meanwhile."""

    def __init__(self, make: Callable[[], str]):
        self._make, self._lock, self._html = make, threading.Lock(), ""

    def html(self) -> str:
        with self._lock:
            self._html = self._html or self._make()
            return self._html


class Served:
    """A store's pages, made when they are asked for.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store):
        self.history, self.comparisons, self.links = History(store), Comparisons(), Links()
        self.assets = assets()
        self._kept: dict[tuple, _Once] = {}
        self._lock = threading.Lock()

    def state(self) -> str:
        """A text that changes when the pages would."""
        try:
            return self.history.look().state
        except StoreError:
            return UNREADABLE

    def warm(self) -> None:
        """Read every manifest, and make the pages that take longest, before somebody waits for them."""
        if self.page("", {})[0] == 200:
            models = sorted(self.history.look().models.values(), key=lambda model: -len(model.versions))
            for model in models[: KEPT_PAGES // 2]:
                self.page("model", {"name": model.name})

    def page(self, name: str, given: dict[str, str]) -> tuple[int, str]:
        """The status and HTML of a page."""
        page = PAGES[name]
        try:
            missing = [word for word in page.needs if not given.get(word)]
            if missing:
                form = "&".join(f"{word}=…" for word in page.needs)
                raise ParameterError(f"{missing[0]}: say which, as /{name}?{form}")
            return 200, self._made(name, {word: given[word] for word in page.needs})
        except MfpipeError as error:
            return 404 if isinstance(error, StoreError) else 400, self.said("Nothing to show", str(error))

    def _made(self, name: str, given: dict[str, str]) -> str:
        """A page's HTML, made once for each state of the store; the last few are kept."""
        state = self.state()
        key = (name, state, *given.values())
        asked = Asked(self.history, self.comparisons, self.links, given)
        with self._lock:
            once = self._kept.pop(key, None) or _Once(
                lambda: render(PAGES[name].make(asked), self.links, state)
            )
            self._kept[key] = once  # the last that was asked for
            while len(self._kept) > KEPT_PAGES:
                del self._kept[next(iter(self._kept))]
        return once.html()

    def said(self, title: str, words: str) -> str:
        """A page of words alone."""
        return render(Content(title, [words]), self.links, self.state())

    def application(self, hosts: str = LOOPBACK) -> Application:
        """The application; a request that names another host is not answered.

        A web page that has a name of its own lead to this machine could otherwise read the store through
        the browser of whoever looks at it.
        """
        about = {"served": self}
        rules = [
            (rf"/({'|'.join(map(re.escape, self.assets))})", _Asset, about),
            (r"/state", _State, about),
            (rf"/({'|'.join(PAGES)})", _Page, about),
        ]
        application = Application(
            default_handler_class=_Missing, default_handler_args=about, log_function=_log
        )
        application.add_handlers(f"^{hosts}$", rules)
        return application


class _Missing(_Handler):
    def prepare(self) -> None:
        self.set_status(404)
        self.finish(self.served.said("Nothing to show", "There is no such page here."))


def _log(handler: RequestHandler) -> None:
    log.debug("%d %s", handler.get_status(), handler.request.path)


@contextmanager
def serving(store: Store, listening: socket.socket, hosts: str = LOOPBACK) -> Iterator[None]:
    """Answer on a listening socket, from a thread of its own, while the block runs.

    The main thread is left to whoever waits there for a signal.
    """
    ready, loops = threading.Event(), []

    async def answer() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        pages = Served(store)
        threading.Thread(target=pages.warm, name="mfpipe-warm", daemon=True).start()
        server = HTTPServer(pages.application(hosts))
        listening.setblocking(False)
        server.add_socket(listening)
        loops.append((loop, stop))
        ready.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=asyncio.run, args=(answer(),), name="mfpipe-dashboard", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(2)
