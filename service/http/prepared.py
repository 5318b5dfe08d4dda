"""Complete responses that the server writes as they are."""

from __future__ import annotations

from typing import NamedTuple


class TrustedHeaders(list[tuple[bytes, bytes]]):
    """Headers of a response that this service built in one piece.

    Names are lower case, none of them is `connection`, no value has a line break, and the content
    length is there. `service.server.http_protocol` writes them without checking again.
    """


class PreparedResponse(NamedTuple):
    """A whole response, to be written at once."""

    status: int
    headers: TrustedHeaders
    body: bytes
