"""base64 as people send it: data URIs, the URL-safe alphabet, line breaks, no padding."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final

from service.errors import InvalidContentError

DATA_URI: Final = re.compile(r"\s*data:(?P<type>[^,]{0,256}),", re.IGNORECASE)

LINE_BREAKS: Final = re.compile(r"[ \t]*[\r\n]+[ \t]*")
"""Other blanks are errors: a form makes them of `+`, which they may have been."""

NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/_-]")

URL_SAFE: Final = str.maketrans("-_", "+/")

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
    end = len(text.rstrip(" \t\r\n="))
    kept = LINE_BREAKS.sub("", text[start:end].lstrip())
    wrong = NOT_BASE64.search(kept)
    if wrong is not None:
        raise _error(index, _what_is_wrong(text, start, wrong[0]))
    if len(kept) % 4 == 1:
        raise _error(
            index, f"is base64 that is cut short: {len(kept):,} characters cannot be whole bytes"
        )
    return b64decode(kept.translate(URL_SAFE) + "=" * (-len(kept) % 4))


def _what_is_wrong(text: str, start: int, character: str) -> str:
    at = text.index(character, start)
    if text.startswith(("b'", 'b"')):
        return "starts with b', as Python prints bytes: send .decode() of them"
    if re.match(r"[A-Za-z]{2,8}://", text):
        return "is an address, and nothing is fetched: send the file itself in base64"
    shown = repr(text[:SHOWN]) + ("…" if len(text) > SHOWN else "")
    hint = ""
    if character == " ":
        hint = "; if it was a form's, it was a +"
    elif character == "=":
        hint = "; padding ends base64, so these may be several texts"
    elif character == "%":
        hint = "; it looks percent-encoded"
    elif character == "\\":
        hint = "; it looks escaped twice"
    return f"is not base64: {character!r} at {at:,} of {shown}{hint}"


def _error(index: int, what: str) -> InvalidContentError:
    return InvalidContentError(f"images[{index}] {what}", ("body", "images", index))
