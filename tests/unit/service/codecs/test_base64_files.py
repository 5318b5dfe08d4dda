"""base64 with white space: what is read, and where the first wrong character is."""

from __future__ import annotations

import re
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs.base64_files import decode_base64
from service.errors import InvalidContentError


def first_wrong(text: str) -> int | None:
    """Character by character: the first that is neither base64 nor white space of a line break."""
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip(" \t\r\n="))
    at = begin
    while at < end:
        run = re.compile(r"[ \t\r\n]*").match(text, at, end)
        assert run
        if run[0] and not re.search(r"[\r\n]", run[0]):
            return at
        at = run.end()
        if not re.fullmatch(r"[A-Za-z0-9+/_-]", text[at]):
            return at
        at += 1
    return None


@given(st.text(st.sampled_from("Aa1+/-_ \t\r\n=!ü€"), max_size=30))
def test_white_space_in_base64(text: str) -> None:
    wrong = first_wrong(text)
    kept = "".join(text.rstrip(" \t\r\n=").split()).replace("-", "+").replace("_", "/")
    if wrong is not None:
        with pytest.raises(InvalidContentError) as raised:
            decode_base64(text, 3)
        assert f"{text[wrong]!r} at {wrong:,} of " in raised.value.detail
    elif not kept or len(kept) % 4 == 1:
        with pytest.raises(InvalidContentError):
            decode_base64(text, 3)
    else:
        assert decode_base64(text, 3) == b64decode(kept + "=" * (-len(kept) % 4))


@pytest.mark.parametrize("blanks", ["\n" + " " * 40_000, " " * 40_000 + "\n", "\t \n" * 20_000])
def test_wrapped_and_indented_text_is_read(blanks: str) -> None:
    assert decode_base64(f"iVBO{blanks}Rw0K", 0) == b64decode("iVBORw0K")
