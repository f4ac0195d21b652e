"""The parameters of a request. A wrong one is refused, and so is one that nobody reads."""

from starlette.requests import Request

from symm_jax.data.tree import as_text
from symm_jax.serve.limits import Refused
from symm_jax.serve.service import Service

EMBED = ("box",)
SEARCH = {"GET": ("path", "row", "upload", "box", "class", "k"), "POST": ("box", "class", "k", "keep")}
_BOX_END = 10**6  # pixels


def require_known(request: Request, known: tuple[str, ...]) -> None:
    """Refuses a request with a parameter that is not in `known`, or twice: it would have no effect."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise Refused(
                400, f"{request.method} {request.url.path} has no parameter {name[:32]!r}. It has {', '.join(known)}."
            )
        if names.count(name) > 1:
            raise Refused(400, f"The parameter {name} is given {names.count(name)} times.")


def parse_k(request: Request, default: int, most: int) -> int:
    """The number of results."""
    text = request.query_params.get("k", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise Refused(400, f"k must be from 1 to {most:,}.")
    return int(text)


def parse_keep(request: Request) -> bool:
    """Whether the upload is kept for a while."""
    text = request.query_params.get("keep", "0")
    if text not in ("0", "1"):
        raise Refused(400, "keep must be 0 or 1.")
    return text == "1"


def parse_box(request: Request) -> list[int] | None:
    """The box [x1, y1, x2, y2] in pixels; None for the whole picture."""
    text = request.query_params.get("box", "")
    if not text:
        return None
    numbers = text.split(",")
    if len(numbers) == 4 and all(n.isascii() and n.isdecimal() and len(n) < 8 for n in numbers):
        x1, y1, x2, y2 = map(int, numbers)
        if x1 < x2 <= _BOX_END and y1 < y2 <= _BOX_END:
            return [x1, y1, x2, y2]
    raise Refused(400, "box must be x1,y1,x2,y2 in pixels, with x1 < x2 and y1 < y2.")


def parse_class(request: Request, service: Service) -> str | None:
    """The class of the results; None for all."""
    given = request.query_params.get("class", "")
    if not given:
        return None
    for label in service.engine.rows_of:
        if as_text(label) == given:
            return label
    raise Refused(400, "No picture of the index has this class.")


def parse_query(request: Request, service: Service) -> tuple[int | None, str | None]:
    """The row, or the SHA-256 of an upload that was kept."""
    parameters = request.query_params
    given = [name for name in ("row", "path", "upload") if name in parameters]
    if len(given) != 1:
        raise Refused(400, "Name the picture by one of row, path and upload, or send it by POST.")
    value = parameters[given[0]]
    if given[0] == "upload":
        return None, value
    row = service.row_of.get(value) if given[0] == "path" else None
    if given[0] == "row" and value.isascii() and value.isdecimal() and len(value) < 16:
        row = int(value)
    if row is None or row >= len(service.index):
        raise Refused(404, "The index has no such picture.")
    return row, None
