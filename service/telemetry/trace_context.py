"""W3C Trace Context: the trace that a request belongs to, and the span that called it.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from random import getrandbits
from typing import Final, NamedTuple

TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.ASCII,
)
"""Version, trace id, parent id, flags. Ids of zeros and version ff are invalid. Later versions may
add more after another dash."""

SAMPLED: Final = 0x01

KNOWN_FLAGS: Final = 0x03
"""The flags `sampled` and `random-trace-id`. The specification has all others set to zero."""


class Trace(NamedTuple):
    """A request as part of a trace."""

    traceparent: str
    """The response's header: the caller's trace with a span id of this request."""
    parent_id: str
    """The caller's span id."""

    @property
    def trace_id(self) -> str:
        """The caller's trace, 32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """The span of this request, 16 hexadecimal digits."""
        return self.traceparent[36:52]

    @property
    def is_sampled(self) -> bool:
        """Whether the caller records the trace, so that it can be looked up."""
        return int(self.traceparent[53:], 16) & SAMPLED == SAMPLED


def join_trace(traceparent: str) -> Trace | None:
    """Start a span in the caller's trace. None if the header is not valid.

    >>> join_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").parent_id
    '00f067aa0ba902b7'
    """
    match = TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "00" and more is not None:
        return None
    span_id = getrandbits(64) or 1
    kept = int(flags, 16) & KNOWN_FLAGS
    return Trace(f"00-{trace_id}-{span_id:016x}-{kept:02x}", parent_id)
