"""The explore page without a project: for whoever started it, on this machine alone."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from advex.annotation import serving, web
from advex.annotation.security import LOOPBACK, Guard, Limits
from advex.explore import routes
from advex.explore.desk import Desk
from advex.explore.requests import UPLOAD_BYTES, Catalogue

_GUEST = web.Guest(id=0, key="alone", name="owner", owner=True)


class Links:
    """Links and sessions of the one person, in memory: they end with the server.

    link: a token that may be used again and again. once: another for a browser that is started with it, whose command
    line other users of the machine may read: it lets one in once.
    """

    def __init__(self) -> None:
        self.link, self.once = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self._used = False
        self._sessions: set[str] = set()

    def enter(self, token: str) -> str | None:
        """A new session's token for that of a link; None for any other."""
        is_once = not self._used and hmac.compare_digest(token.encode(), self.once.encode())
        if not is_once and not hmac.compare_digest(token.encode(), self.link.encode()):
            return None
        self._used = self._used or is_once
        session = secrets.token_urlsafe(32)
        self._sessions.add(session)
        return session

    def who(self, session: str) -> web.Guest | None:
        """The person, where the session is theirs."""
        return _GUEST if session in self._sessions else None


def make_app(desk: Desk, catalogue: Catalogue, kept: Path, links: Links, port: int = 0) -> Guard:
    """The application. kept: folder of the explanations that are saved. port: tells apart the cookies of servers."""
    limits = Limits(hosts=frozenset(LOOPBACK), uploads={routes.UPLOAD: UPLOAD_BYTES})
    app = web.new_app("advex explore")
    site = web.Site(name="advex explore", kept=kept, answers=False)
    door = web.Door(links.who, f"advex-explore-{port}")
    web.add_session(app, site, door, limits, links.enter, days=0)
    web.add_files(app)

    @app.get("/", include_in_schema=False)
    def home(request: Request) -> Response:
        if door.guest(request) is None:
            return HTMLResponse(web.page("closed.html.j2", project=site), 401)
        return RedirectResponse("/explore", 303)

    routes.owner_pages(desk, catalogue)(app, site, door)
    return Guard(app, limits, door.cookie)


def serve(desk: Desk, kept: Path, *, port: int, browser: bool, verbose: bool, say: Callable[[str], None]) -> None:
    """Open models and pictures, then serve until stopped.

    browser: open the page. say: is called with the page's link. Raises SpecError for what cannot be opened.
    """
    host, links = LOOPBACK[0], Links()
    with serving.listening(host, port) as listener, contextlib.closing(desk):
        catalogue = desk.open()
        address = serving.address_of(listener, host)
        say(f"{address}/enter#{links.link}")
        if browser and _has_screen():
            webbrowser.open(f"{address}/enter#{links.once}")
        app = make_app(desk, catalogue, kept, links, listener.getsockname()[1])
        serving.serve(app, listener, verbose=verbose)


def _has_screen() -> bool:
    """Whether a browser would open a window, and not take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
