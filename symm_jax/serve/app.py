"""The application: the page, and the API in JSON."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import joblib
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from symm_jax import web
from symm_jax.data.tree import as_text
from symm_jax.search import Index
from symm_jax.search.embedder import describe_weights
from symm_jax.serve import guard, parameters, upload
from symm_jax.serve.engine import Answer, Query
from symm_jax.serve.guard import Guard
from symm_jax.serve.limits import Limits, Refused
from symm_jax.serve.metrics import CONTENT_TYPE
from symm_jax.serve.service import PICTURE, THUMBNAIL, Service, Shown

_WEB = Path(__file__).parent / "web"
Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    index: Index,
    embedder: Any,
    *,
    k: int = 10,
    limits: Limits | None = None,
    token: str = "",
    hosts: tuple[str, ...] | None = None,
    workers: int | None = None,
) -> Starlette:
    """The application, whose processes start with it.

    Args:
      index: what is searched.
      embedder: the network of the index: image_size, and embed: (n, side, side, 3) uint8 -> (n, dim) float32.
      k: the number of results where a request has none.
      limits: what a request may take.
      token: what a request must carry; "" for nothing.
      hosts: the names that requests may give to the server; None for every name.
      workers: the number of processes that decode; by default one per core that this process may use.
    """
    limits = limits or Limits()
    service = Service(index, embedder, limits=limits, workers=workers or joblib.cpu_count())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    routes = _routes(service, min(k, limits.k), token)
    paths = {getattr(route.endpoint, "__name__", ""): route.path for route in routes}

    def count(scope: Scope, status: int, seconds: float) -> None:
        name = getattr(scope.get("endpoint"), "__name__", "")
        service.metrics.answered(paths.get(name, "other"), status, seconds)

    def login() -> Response:
        return HTMLResponse((_WEB / "login.html").read_text(), 401)

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, token=token, hosts=hosts, login=login, count=count)],
        exception_handlers={HTTPException: _describe_error, 500: _describe_failure},
    )
    app.state.service = service
    return app


def _routes(service: Service, default_k: int, token: str) -> list[Route]:
    limits = service.limits

    async def page(_: Request) -> Response:
        return HTMLResponse((_WEB / "page.html").read_text())

    async def style(_: Request) -> Response:
        return Response(web.style() + (_WEB / "page.css").read_text(), media_type="text/css")

    async def script(_: Request) -> Response:
        parts = [web.script(), *((_WEB / f"{name}.js").read_text() for name in ("box", "search"))]
        text = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
        return Response(text, media_type="text/javascript")

    async def login_script(_: Request) -> Response:
        return Response((_WEB / "login.js").read_text(), media_type="text/javascript")

    async def login(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=2, max_part_size=4096)
        if not token or not guard.is_token(str(form.get("token", "")), token):
            text = (_WEB / "login.html").read_text()
            return HTMLResponse(text.replace("hidden", "", 1), 401)
        response = RedirectResponse(f"/?{request.url.query}" if request.url.query else "/", 303)
        guard.set_cookie(response, request, token)
        return response

    async def session(request: Request) -> Response:
        return JSONResponse({"open": not token or guard.is_open(request, token)})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def about(_: Request) -> Response:
        index, found = service.index, service.thresholds
        return JSONResponse(
            {
                "pictures": len(index),
                "folder": as_text(index.images.name),
                "weights": describe_weights(index.about["weights"]),
                "dim": index.embeddings.shape[1],
                "k": default_k,
                "classes": {as_text(name): len(rows) for name, rows in service.engine.rows_of.items() if name},
                "thresholds": dict(found.at) if found else None,
                "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "k": limits.k},
            }
        )

    async def search(request: Request) -> Response:
        parameters.require_known(request, parameters.SEARCH["POST" if request.method == "POST" else "GET"])
        k, box = parameters.parse_k(request, default_k, limits.k), parameters.parse_box(request)
        label, keep = parameters.parse_class(request, service), parameters.parse_keep(request)
        row, kept = None, None
        size: dict[str, Any] = {}
        if request.method == "POST":
            content = await upload.read_picture(request, limits)
        else:
            row, kept = parameters.parse_query(request, service)
            content = service.upload(kept) if kept else None
        async with _answering(limits):
            if content is not None:
                square, width, height = await service.decode_upload(content, box)
                size = {"width": width, "height": height}
                if kept or keep:
                    size["upload"] = service.keep(content)
                answer = await service.batcher.ask(Query(square, None, k, label))
            elif box:
                assert row is not None
                square, width, height = await service.decode_row(row, box)
                size = {"width": width, "height": height}
                answer = await service.batcher.ask(Query(square, row, k, label))
            else:
                answer = await service.batcher.ask(Query(None, row, k, label))
        described = {} if row is None else _describe_row(service, row)
        return JSONResponse({"query": {**described, **size, "box": box}, "results": _results(service, answer)})

    async def embed(request: Request) -> Response:
        parameters.require_known(request, parameters.EMBED)
        box, content = parameters.parse_box(request), await upload.read_picture(request, limits)
        async with _answering(limits):
            square, _, _ = await service.decode_upload(content, box)
            answer = await service.batcher.ask(Query(square))
        return JSONResponse({"embedding": answer.embedding.tolist()})

    async def thumbnail(request: Request) -> Response:
        row = request.path_params["row"]
        return await _picture(request, service, row, THUMBNAIL)

    async def picture(request: Request) -> Response:
        return await _picture(request, service, request.path_params["row"], PICTURE)

    async def uploaded(request: Request) -> Response:
        return _webp(await service.show_upload(request.path_params["sha256"]))

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return [
        Route("/", page),
        Route("/page.css", style),
        Route("/page.js", script),
        Route("/login.js", login_script),
        Route("/login", login, methods=["POST"]),
        Route("/api/session", session),
        Route("/api/about", about),
        Route("/api/health", health),
        Route("/api/search", _admitted(service, search), methods=["GET", "POST"]),
        Route("/api/embed", _admitted(service, embed), methods=["POST"]),
        Route("/api/thumbnail/{row:int}", thumbnail),
        Route("/api/picture/{row:int}", picture),
        Route("/api/upload/{sha256}", uploaded),
        Route("/metrics", metrics),
    ]


def _admitted(service: Service, handler: Handler) -> Handler:
    """The handler for so many requests at once; others are refused."""

    async def admitted(request: Request) -> Response:
        if service.busy >= service.limits.requests:
            await upload.drain(request, service.limits)
            raise Refused(503, "The server answers as many requests as it can. Try again.", Retry_After="1")
        service.busy += 1
        try:
            return await handler(request)
        finally:
            service.busy -= 1

    admitted.__name__ = getattr(handler, "__name__", "")
    return admitted


@contextlib.asynccontextmanager
async def _answering(limits: Limits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.answer_seconds):
            yield
    except TimeoutError as error:
        raise Refused(
            504, f"The answer took longer than {limits.answer_seconds:g} seconds. Try again later."
        ) from error


async def _picture(request: Request, service: Service, row: int, fit: int) -> Response:
    """A picture of the index, as it was embedded. A browser asks whether a row still has the picture that it keeps."""
    tag = f'"{service.index.rows[row].sha256[:32]}-{fit}"' if row < len(service.index) else ""
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if tag and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return _webp(await service.show_row(row, fit), headers)


def _webp(shown: Shown, headers: dict[str, str] | None = None) -> Response:
    size = {"Picture-Width": str(shown.width), "Picture-Height": str(shown.height)}
    return Response(shown.webp, media_type="image/webp", headers={**(headers or {}), **size})


def _results(service: Service, answer: Answer) -> list[dict[str, Any]]:
    is_match = service.thresholds.is_match if service.thresholds else lambda _: None
    return [
        {**_describe_row(service, row), "similarity": round(value, 6), "match": is_match(value)}
        for row, value in zip(answer.rows, answer.similarities, strict=True)
    ]


def _describe_row(service: Service, row: int) -> dict[str, Any]:
    found = service.index.rows[row]
    return {"path": as_text(found.path), "row": row, "class": as_text(found.label)}


async def _describe_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _describe_failure(*_: Any) -> Response:
    return JSONResponse({"error": "The server has failed. Its output says how."}, 500)
