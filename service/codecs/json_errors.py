"""Explains JSON that cannot be parsed: what is wrong, and where. Runs only once parsing failed."""

from __future__ import annotations

import re
from typing import Final

import orjson

from model.images.formats import is_read, name_of

BOM: Final = b"\xef\xbb\xbf"
"""A byte order mark, with which some programs on Windows begin UTF-8."""

MAX_DEPTH: Final = 1_024
"""Arrays and objects in each other that simdjson and orjson read."""

SEARCHED_BYTES: Final = 1 << 20
"""The start of a body, in which errors are located. orjson makes Python objects of it, a few
megabytes."""

SEARCHED_FORM_BYTES: Final = 4_096

NOT_JSON: Final = re.compile(
    r"[-+]?(?:NaN|nan|NAN|Infinity|infinity|Inf|inf|INF)\b|True\b|False\b|None\b|undefined\b|'|//|/\*"
)
"""What programs write in place of JSON."""

INSTEAD: Final = {
    "True": "JSON writes true, not True",
    "False": "JSON writes false, not False",
    "None": "JSON writes null, not None",
    "'": "strings take double quotes",
    "//": "comments are not JSON",
    "/*": "comments are not JSON",
}

GZIP: Final = b"\x1f\x8b"

WORDS_AS_VALUES: Final = (
    re.compile(rb"NaN(?<=[\[,: \t\r\n+-]NaN)"),
    re.compile(rb"Infinity(?<=[\[,: \t\r\n+-]Infinity)"),
)
"""Words where a value begins. base64 may hold them by chance."""

UTF_16: Final = "the body is not JSON: it is UTF-16, and JSON is UTF-8"


def why_not_json(body: bytes, reason: str) -> str:
    """`the body is not JSON at line 1, column 9: NaN is not JSON`.

    `reason` is what the parser says, which knows no position.
    """
    if is_utf16(body):
        return UTF_16
    if wrong := _what_instead(body):
        return wrong
    text = body[:SEARCHED_BYTES].removeprefix(BOM).decode("utf-8", "ignore")
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        is_whole = len(body) <= SEARCHED_BYTES
        if is_whole or error.pos < len(text) - 64:
            return _described(text, error)
    for word in WORDS_AS_VALUES:
        if found := word.search(body):
            what = f"{found[0].decode()} is not JSON"
            return f"the body is not JSON at byte {found.start():,}: {what}"
    return f"the body is not JSON: {reason}"


def why_not_utf8(body: bytes) -> str:
    """What is wrong with bytes that are not UTF-8."""
    if is_utf16(body):
        return UTF_16
    if wrong := _what_instead(body):
        return wrong
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"the body is not JSON: it is not UTF-8 at byte {error.start:,}"
    return "the body is not JSON: it is not UTF-8"


def _what_instead(body: bytes) -> str | None:
    """What a body is that is no text at all, or a form."""
    if body.startswith(GZIP):
        return "the body is not JSON: it is a gzip file, which needs Content-Encoding: gzip"
    if not looks_like_json(body[:64]) and (name := name_of(body)):
        what_to_do = ", which needs its own Content-Type" if is_read(name) else ""
        return f"the body is not JSON: it is {name}{what_to_do}"
    if body.startswith(b"--") and b"content-disposition" in body[:SEARCHED_FORM_BYTES].lower():
        return (
            "the body is not JSON: it is a form; leave its Content-Type, multipart/form-data with "
            "a boundary, to the client that makes it"
        )
    return None


def looks_like_json(start: bytes) -> bool:
    """Whether the first bytes of a body are those of an object or a list."""
    return start.removeprefix(BOM).lstrip().startswith((b"{", b"["))


def is_utf16(body: bytes) -> bool:
    """Whether a text is UTF-16, by its byte order mark or its first bracket."""
    return body[:2] in (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"[\0", b"\0[")


def too_deep() -> str:
    """The error of arrays or objects in more than `MAX_DEPTH` others."""
    return f"the JSON is nested too deep: arrays and objects in more than {MAX_DEPTH:,} others"


def _described(text: str, error: orjson.JSONDecodeError) -> str:
    if error.msg.startswith("depth limit"):
        return too_deep()
    is_signed = error.pos > 0 and text[error.pos - 1] in "+-"  # orjson names the place behind
    column = error.colno - is_signed
    found = NOT_JSON.match(text, error.pos - is_signed)
    if found:
        what = INSTEAD.get(found[0], f"{found[0]} is not JSON")
    elif text.startswith("[object "):
        what = "an object of JavaScript takes JSON.stringify"
    elif text[error.pos : error.pos + 1] == "." and not is_signed:
        what = "a number begins with a digit"
    else:
        what = error.msg.partition(": line ")[0]
        if what.startswith("unexpected content after") and error.lineno > 1:
            what += "; JSON Lines are not read: a request is one document with a list"
    return f"the body is not JSON at line {error.lineno}, column {column}: {what}"
