"""Content negotiation: the response type that an Accept header prefers."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import NotAcceptableError


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The type among `offered` that an `Accept` header prefers. In a tie, the first one.

    Implements RFC 9110, section 12.5.1. Raises `NotAcceptableError`.
    """
    if not accept:
        return offered[0]
    ranges = [_parse_range(part) for part in accept.split(",")]
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptableError(
            f"Accept is {accept[:128]!r}, this route offers {', '.join(offered)}"
        )
    return best


def _parse_range(part: str) -> tuple[str, float]:
    media_range, *parameters = (text.strip().lower() for text in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                return media_range, 0.0
            return media_range, quality if 0 <= quality <= 1 else 0.0
    return media_range, 1.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The q-value of the most specific range that covers `media_type`."""
    qualities = dict(reversed(ranges))  # reversed: the first of equal ranges counts
    for media_range in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if media_range in qualities:
            return qualities[media_range]
    return 0.0
