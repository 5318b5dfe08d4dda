"""Content negotiation by Accept."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs.accept import negotiate
from service.errors import NotAcceptableError

MEDIA_TYPES = ["application/json", "image/png"]


@given(st.permutations(MEDIA_TYPES), st.floats(0.001, 1), st.floats(0.001, 1))
def test_the_highest_quality_wins_and_the_first_wins_a_tie(
    offered: list[str], first: float, second: float
) -> None:
    accept = f"{offered[0]};q={first:.3f}, {offered[1]} ; q={second:.3f}"
    best = offered[0] if round(first, 3) >= round(second, 3) else offered[1]
    assert negotiate(accept, offered) == best


@given(st.text(max_size=40))
def test_any_accept_header_has_an_answer_or_a_refusal(accept: str) -> None:
    with suppress(NotAcceptableError):
        assert negotiate(accept, MEDIA_TYPES) in MEDIA_TYPES


def test_a_refusal_does_not_repeat_a_long_header() -> None:
    with pytest.raises(NotAcceptableError, match=r"text/html.*image/png") as refusal:
        negotiate("text/html," * 1_000, MEDIA_TYPES)
    assert len(refusal.value.detail) < 500


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/*;q=0, */*", "application/json"),
        ("application/json;q=0.2, */*;q=0.8", "image/png"),
        ("image/png;level=1;q=0.9, application/json;q=0.8", "image/png"),
        (",,image/png,,", "image/png"),
    ],
)
def test_ranges_go_by_how_specific_they_are(accept: str | None, found: str) -> None:
    assert negotiate(accept, MEDIA_TYPES) == found
