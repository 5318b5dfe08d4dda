"""Guesses at what a body is that could not be read, for error messages. Runs on failures only."""

from __future__ import annotations

import re
from typing import Final

from model.images.formats import READ, name_of
from service.codecs.json_errors import BOM, GZIP, is_utf16, looks_like_json

STRIPPED: Final = "its line breaks are gone: curl's -d strips them, --data-binary keeps them"

STRIPPED_STARTS: Final = {
    b"\x89PNG": "a PNG file",
    b"\xff\xd8\xff": "a JPEG file",
    b"RIFF": "a WebP file",
    b"BM": "a BMP file",
    b"II*": "a TIFF file",
    b"MM*": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"\x93NUMPY": "an .npy file",
}

NEVER_WITHOUT: Final = frozenset({b"\x89PNG", b"\x93NUMPY"})
"""Starts of files whose first bytes have a line break."""

COMPRESSED: Final = frozenset({b"\xff\xd8\xff", b"RIFF"})
"""Starts of files in which any byte is as likely as another. TIFF and BMP may be all zeros."""

SURE_BYTES: Final = 256
"""In so many bytes of a compressed image, one is a line break, with a chance of 87 %. Only files
that turned out to be damaged are asked."""

CURL_TYPE: Final = "application/x-www-form-urlencoded"
"""What curl's -d says of any body."""

MAX_TEXT: Final = 256
"""Texts up to this length may be a file's name."""

FILE_NAME: Final = re.compile(
    r"@?[^\s\"{}\[\]]*\.(?:png|jpe?g|jfif|webp|bmp|tiff?|gif|heic|avif|npy|json)", re.IGNORECASE
)

BASE64: Final = (b"iVBOR", b"/9j/", b"_9j_", b"UklGR", b"SUkq", b"TU0A", b"data:image/")
"""How image files begin in base64: PNG, JPEG, WebP and TIFF; and data URIs."""

SEARCHED_BYTES: Final = 4_096


TYPES: Final = {
    "a PNG file": "image/png",
    "a JPEG file": "image/jpeg",
    "a WebP file": "image/webp",
    "a BMP file": "image/bmp",
    "a TIFF file": "image/tiff",
    "an .npy file": "application/x-npy",
}
"""The Content-Types of what is read."""

JSON_LIKE: Final = "it looks like JSON, whose type is application/json"

FORM_FIELD: Final = re.compile(rb"[\w.\[\]-]{1,64}=")


def stripped_name(body: bytes, content_type: str = "") -> str | None:
    """What a damaged file was before it lost its line breaks, as by `curl -d @file`; None if it has
    some. Some versions of curl take the zeros, too."""
    if b"\n" in body or b"\r" in body:
        return None
    for start, name in STRIPPED_STARTS.items():
        if body.startswith(start):
            is_sure = start in NEVER_WITHOUT or b"\0" not in body
            is_sure = is_sure or (start in COMPRESSED and len(body) >= SURE_BYTES)
            return name if is_sure or content_type.startswith(CURL_TYPE) else None
    return None


def stripped_hint(body: bytes, content_type: str = "") -> str:
    """`; its line breaks are gone: …` for a file that `curl -d @file` sent, otherwise nothing."""
    return f"; {STRIPPED}" if stripped_name(body, content_type) else ""


def file_hint(body: bytes, content_type: str = "") -> str:
    """What a body may be that is not the image file that it should be, or nothing."""
    if looks_like_json(body[:64]):
        return f"; {JSON_LIKE}"
    return stripped_hint(body, content_type)


def raw_hint(body: bytes) -> str:
    """What raw bytes of a wrong length may be instead, or nothing."""
    name = name_of(body)
    if name is not None:
        return f"; it is {name}, whose own Content-Type it needs"
    if len(body) >= SURE_BYTES and not any(byte in body for byte in (b"\n", b"\r")):
        return f"; it has no byte 10 or 13: {STRIPPED.partition(': ')[2]}"
    return ""


def what_it_is(body: bytes) -> str | None:
    """What a body of an unknown or unread type seems to be, and what to do about it."""
    if name := stripped_name(body):
        return f"it is {name}, and {STRIPPED}"
    if body[:64].lstrip().startswith(BASE64):
        return 'it looks like base64, which is sent as JSON: {"images": ["…"]}'
    if name := name_of(body):
        if name in TYPES:
            return f"it is {name}, whose type is {TYPES[name]}"
        if body.startswith(GZIP):
            return f"it is {name}; {READ} are read, or any body with Content-Encoding: gzip"
        return f"it is {name}; {READ} are read"
    if is_utf16(body):
        return "it is text in UTF-16; JSON is UTF-8"
    if looks_like_json(body[:SEARCHED_BYTES]):
        return JSON_LIKE
    start = body[:SEARCHED_BYTES].removeprefix(BOM).lstrip()
    if start.startswith(b"--") and b"Content-Disposition" in start:
        return "it looks like a form, whose type is multipart/form-data with its boundary"
    if len(body) <= MAX_TEXT:
        text = body.decode("utf-8", "replace").strip()
        if "=@" in text:
            return f"it is the text {text[:64]!r}; curl sends a form's files with -F"
        if FILE_NAME.fullmatch(text):
            return f"it is the text {text[:64]!r}; curl sends a file with --data-binary @FILE"
    if FORM_FIELD.match(start):
        return (
            "it looks like the fields of a form; files go into multipart/form-data, as with curl "
            "-F images=@FILE, and base64 into JSON"
        )
    return None
