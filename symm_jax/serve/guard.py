"""Who may ask: the name by which the server is called, the site that asks, and the token. Adds headers, and counts."""

import hashlib
import hmac
import re
import time
import urllib.parse
from collections.abc import Callable, Collection

from starlette.datastructures import URL, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/api/health", "/api/session", "/login", "/login.js", "/page.css")  # without the token
COOKIE = "symm_jax"
_YEAR = 365 * 24 * 3600
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware around everything."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        hosts: Collection[str] | None,
        login: Callable[[], Response],
        count: Callable[[Scope, int, float], None],
    ):
        """Wraps an application.

        Args:
          app: the application.
          token: the token that requests must carry; "" for none.
          hosts: names that the header Host may have; None for every name. A page of another name that resolves to this
            machine (DNS rebinding) has that other name.
          login: makes the page that asks for the token.
          count: called with scope, status and seconds of each request.
        """
        self._app, self._token, self._hosts, self._login, self._count = app, token, hosts, login, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await (self._refusal(Request(scope)) or self._app)(scope, receive, send_with_headers)
        finally:
            self._count(scope, status, time.perf_counter() - start)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not go on; None where it may."""
        host = request.headers.get("host", "")
        if self._hosts is not None and re.sub(r":\d+$", "", host.lower()) not in self._hosts:
            return JSONResponse({"error": f"This server is not called {host!r}."}, 400)
        if request.method not in ("GET", "HEAD") and not _is_same_site(request):
            return JSONResponse({"error": "Another site sent this request."}, 403)
        if not self._token or request.url.path in OPEN:
            return None
        given = request.query_params.get("token")
        if request.url.path == "/" and given is not None and is_token(given, self._token):
            response = RedirectResponse(_without_token(request.url), 303)
            set_cookie(response, request, self._token)
            return response
        if is_open(request, self._token):
            return None
        if request.url.path == "/" and request.method == "GET":
            return self._login()
        return JSONResponse({"error": "The token is missing or wrong."}, 401, {"WWW-Authenticate": "Bearer"})


def is_token(given: str, token: str) -> bool:
    """Whether two tokens are equal. The time that it takes tells nothing about them."""
    sides = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given, token))
    return hmac.compare_digest(*sides)


def is_open(request: Request, token: str) -> bool:
    """Whether a request carries the token, or the cookie that follows from it."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip().encode("latin-1").decode("utf-8", "surrogateescape")  # a header has bytes
    if scheme.lower() == "bearer" and is_token(given, token):
        return True
    return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), _session(token).encode())


def set_cookie(response: Response, request: Request, token: str) -> None:
    """Lets the browser in from now on. The cookie holds no token, but what follows from it."""
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, _session(token), _YEAR, httponly=True, samesite="strict", secure=secure)


def _session(token: str) -> str:
    return hmac.digest(token.encode("utf-8", "surrogateescape"), b"symm_jax session", "sha256").hex()


def _is_same_site(request: Request) -> bool:
    """Whether a page of this server sent the request, or a program. Browsers say from which site a request comes."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urllib.parse.urlsplit(origin).netloc == request.headers.get("host")


def _without_token(url: URL) -> str:
    left = url.remove_query_params("token")
    return f"/?{left.query}" if left.query else "/"
