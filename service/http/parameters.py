"""Query strings, whose parameters may each be there once."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import QueryParams
from starlette.requests import Request

from service.errors import InvalidContentError


def unique_parameters(query_string: bytes) -> dict[str, str]:
    """The parameters of a query string.

    Raises `InvalidContentError` for one that is there twice: the last one would count, and nobody
    would know.
    """
    given = QueryParams(query_string).multi_items()
    values = dict(given)
    if len(values) < len(given):
        raise InvalidContentError(*_repeated(name for name, _ in given))
    return values


async def refuse_repeated(request: Request) -> None:
    """A dependency of routes whose query FastAPI parses. Errors as in `unique_parameters`."""
    unique_parameters(request.scope["query_string"])


def _repeated(names: Iterable[str]) -> tuple[str, tuple[str, str]]:
    """The error of the first name that is there twice, and its place."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            break
        seen.add(name)
    return f"the parameter {name[:64]!r} is there twice", ("query", name[:64])
