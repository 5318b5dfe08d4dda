"""The files of the page: read and hashed once, and compressed once, when a browser asks."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Final

import brotli

COMMENT: Final = re.compile(r"^\s*(?://.*|/\*(?:[^*]|\*(?!/))*\*/)\s*?\n", re.MULTILINE)
"""A comment on lines of its own."""

LINE_END: Final = re.compile(r"(?<=[;,{()\[]) // .*$", re.MULTILINE)
"""A comment behind code. No string of files that are not by others looks like one."""

INDENT: Final = re.compile(r"^\s+", re.MULTILINE)

STATIC: Final = Path(__file__).parent / "static"

VENDOR: Final = STATIC / "vendor"
"""Files by others."""

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""The type of each kind of file. Files of other kinds are not served."""

CACHED: Final = 256
"""Compressed files: all of them in each encoding, and the page below some prefixes."""

DIGEST_DIGITS: Final = 16
"""Hex digits of a hash in addresses and entity tags."""

ENCODINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "br": brotli.compress,
    # Without a time of compression, so that the same file always has the same bytes.
    "gzip": lambda content: gzip.compress(content, mtime=0),
}
"""Content-codings, the smallest result first. Both are at their slowest level, as each file is
compressed once."""


@dataclass(frozen=True)
class Asset:
    """One file."""

    content: bytes
    media_type: str

    def etag(self, encoding: str | None) -> str:
        """Its entity tag in a content-coding, or as it is."""
        return f'"{_digest(self.content)}-{encoding or "identity"}"'

    def encoded(self, encoding: str) -> bytes:
        """The file compressed: up to 60 ms at the first call, so call it in a thread."""
        return _compress(encoding, self.content)


@dataclass(frozen=True)
class Assets:
    """All files of the page, by their names relative to `STATIC`.

    `version` is a hash of them all, and a part of their addresses: modules find one another by
    relative addresses, and a browser that has cached them never mixes two versions.
    """

    files: dict[str, Asset]
    version: str


@cache
def assets() -> Assets:
    """The files of the page."""
    files = {
        path.relative_to(STATIC).as_posix(): Asset(_read(path), MEDIA_TYPES[path.suffix])
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    version = _digest(b"".join(name.encode() + asset.content for name, asset in files.items()))
    return Assets(files, version)


def _read(path: Path) -> bytes:
    """A file as browsers get it: without comments and indentation, which are an eighth of all
    that is sent. Files by others are left as they are."""
    content = path.read_bytes()
    if path.suffix not in (".js", ".css") or path.parent == VENDOR:
        return content
    return INDENT.sub("", LINE_END.sub("", COMMENT.sub("", content.decode()))).encode()


@lru_cache(maxsize=CACHED)
def _compress(encoding: str, content: bytes) -> bytes:
    return ENCODINGS[encoding](content)


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:DIGEST_DIGITS]
