"""base64 as people send it: data URIs, the URL-safe alphabet, line breaks, no padding."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final

from service.errors import InvalidContentError

DATA_URI: Final = re.compile(r"\s*data:(?P<type>[^,]{0,256}),", re.IGNORECASE)

ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"

WHITE_SPACE: Final = b" \t\r\n"

INNER_BLANKS: Final = re.compile(rb"[ \t](?<=[^ \t\r\n].)[ \t]*+(?=[^ \t\r\n])")
"""Blanks within a line, which are errors: form encoding turns `+` into a blank. A match can begin
only at the first blank of a run and never backtracks, so a search takes linear time."""

URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")

SHOWN: Final = 24
"""Characters of a wrong text that a message shows."""


def decode_base64(text: str, index: int) -> bytes:
    """The file in the string `images[index]`.

    Raises `InvalidContentError`, with the position of the first character that is not base64.
    """
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = _decode_loosely(text, index)
    if not data:
        raise _error(index, "is an empty string, expected an image file in base64")
    return data


def _decode_loosely(text: str, index: int) -> bytes:
    uri = DATA_URI.match(text)
    start = 0
    if uri is not None:
        if not uri["type"].lower().rstrip().endswith(";base64"):
            raise _error(index, "is a data URI without ;base64")
        start = uri.end()
    content = text[start:].lstrip()
    start = len(text) - len(content)
    lines = content.rstrip(" \t\r\n=").encode("latin-1", "replace")  # one byte for each character
    if (wrong := _first_wrong(lines)) is not None:
        raise _error(index, _what_is_wrong(text, start + wrong))
    kept = lines.translate(URL_SAFE, WHITE_SPACE)
    if len(kept) % 4 == 1:
        raise _error(
            index, f"is base64 that is cut short: {len(kept):,} characters cannot be whole bytes"
        )
    return b64decode(kept + b"=" * (-len(kept) % 4))


def _first_wrong(lines: bytes) -> int | None:
    """The place of the first character that is neither base64 nor part of a line break."""
    others = lines.translate(None, ALPHABET + WHITE_SPACE)
    places = [lines.index(others[:1])] if others else []
    if b" " in lines or b"\t" in lines:
        blanks = INNER_BLANKS.search(lines, 0, places[0] + 1 if places else len(lines))
        places += [blanks.start()] if blanks else []
    return min(places, default=None)


def _what_is_wrong(text: str, at: int) -> str:
    character = text[at]
    if text.startswith(("b'", 'b"')):
        return "starts with b', as Python prints bytes: send .decode() of them"
    if re.match(r"[A-Za-z]{2,8}://", text):
        return "is an address, and nothing is fetched: send the file itself in base64"
    shown = repr(text[:SHOWN]) + ("…" if len(text) > SHOWN else "")
    hint = ""
    if character == " ":
        hint = "; form encoding turns + into a space"
    elif character == "=":
        hint = "; padding ends base64, so these may be several texts"
    elif character == "%":
        hint = "; it looks percent-encoded"
    elif character == "\\":
        hint = "; it looks escaped twice"
    return f"is not base64: {character!r} at {at:,} of {shown}{hint}"


def _error(index: int, what: str) -> InvalidContentError:
    return InvalidContentError(f"images[{index}] {what}", ("body", "images", index))
