"""The files of the page: read, hashed and compressed once."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent / "static"

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""The type of each kind of file. Files of other kinds are not served."""

DIGEST_DIGITS: Final = 16
"""Hex digits of a hash in addresses and entity tags."""

COMPRESSION_LEVEL: Final = 9
"""The slowest, as each file is compressed once."""


@dataclass(frozen=True)
class Asset:
    """One file, as it is and compressed by gzip."""

    content: bytes
    compressed: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Asset:
        """Hash and compress a file."""
        # Without a time of compression, so that the same file always has the same bytes.
        compressed = gzip.compress(content, COMPRESSION_LEVEL, mtime=0)
        return cls(content, compressed, media_type, f'"{_digest(content)}"')


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
    """The files of the page. Reading and compressing them takes about 20 ms."""
    found = {
        path.relative_to(STATIC).as_posix(): (path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    files = {name: Asset.of(content, media_type) for name, (content, media_type) in found.items()}
    version = _digest(b"".join(name.encode() + content for name, (content, _) in found.items()))
    return Assets(files, version)


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:DIGEST_DIGITS]
