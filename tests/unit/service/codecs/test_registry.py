"""Which type has which reader and writer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs import registry as media
from service.codecs.accept import negotiate
from service.codecs.options import ImageOptions
from service.errors import NotAcceptableError, UnsupportedTypeError

READERS = cast("dict[str, Any]", media.IMAGE_READERS)


def wanted(content_type: str | None) -> ImageOptions:
    return ImageOptions(
        shape=(1, 4, 5), max_images=10, max_image_pixels=100, content_type=content_type or ""
    )


@pytest.mark.parametrize(
    ("body", "content_type", "found"),
    [
        (b'{"images"', None, "application/json"),
        (b" \r\n\t[", "", "application/json"),
        (b"\x89PNG\r\n", None, "image/png"),
        (b"\xff\xd8\xff\xe0", "application/x-www-form-urlencoded", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBP", None, "image/webp"),
        (b"BM", None, "image/bmp"),
        (b"\x93NUMPY", None, "application/x-npy"),
        (b"{", "image/png", "image/png"),
        (b"{", " Image/PNG ; charset=x", "image/png"),
        (b"\x89PNG", "application/json", "application/json"),
        (b"x", "text/plain", "text/plain"),
    ],
)
def test_the_body_s_type_is_the_one_named_or_the_one_seen(
    monkeypatch: pytest.MonkeyPatch, body: bytes, content_type: str | None, found: str
) -> None:
    seen: list[str] = []
    for media_type in media.IMAGE_READERS:
        monkeypatch.setitem(READERS, media_type, lambda *_, t=media_type: seen.append(t))
    if found not in media.IMAGE_READERS:
        with pytest.raises(UnsupportedTypeError, match=found):
            asyncio.run(media.read_images(body, wanted(content_type)))
    else:
        asyncio.run(media.read_images(body, wanted(content_type)))
        assert seen == [found]


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
