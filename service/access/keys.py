"""API keys: who may do what. `python -m service.keys NAME` makes one.

A file has a line a key: its name, its SHA-256, and what it may do.

::

    # comment
    alice 3f1c…  scopes=infer,metrics rate=1000
"""

from __future__ import annotations

import hmac
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Final

log = logging.getLogger("service")

SCOPES: Final = ("infer", "metrics", "admin")
"""What a key may be for: images and the model, `/metrics`, `/model/reload`."""

DEFAULT_SCOPES: Final = frozenset({"infer"})

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Names stand in logs."""

DIGEST: Final = re.compile(r"[0-9a-f]{64}")

RATE: Final = re.compile(r"[0-9]{1,9}")

MIN_KEY_LENGTH: Final = 16
"""Characters: 16 random ones of base64 are 96 bits, which nobody can try."""

MAX_FILE_BYTES: Final = 512 * 1024
"""Some thousand keys: it is read between two requests."""

LOOK_EVERY_S: Final = 1.0
"""Between looks at whether the file has changed."""

BEARER: Final = "bearer "
"""Before the key in `Authorization`; in any case (RFC 9110, section 11.1)."""


class KeysError(Exception):
    """Keys that cannot be used; a message of one line, which shows none of them."""


class NoKeysError(KeysError):
    """There is a file, and no key in it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Key:
    """A key, by what it may do. The key itself is kept nowhere."""

    name: str
    digest: bytes
    """SHA-256 of it. Keys are random and long: nothing slower is needed, as for passwords."""
    scopes: frozenset[str] = DEFAULT_SCOPES
    rate: int | None = None
    """Images a second."""


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return sha256(key.encode("latin-1", "replace")).digest()


class Keys:
    """The keys of a file, which is looked at again from time to time, and those of a setting.

    Raises `KeysError` if any of them cannot be used.
    """

    def __init__(self, file: Path | None, plain: str | None) -> None:
        self._plain = [] if plain is None else _read_plain(plain)
        self._keys = _by_digest(self._plain)
        self._file = file
        self._seen: tuple[int, ...] | None = None
        self._told = ""
        self._look_at = monotonic() + LOOK_EVERY_S
        if file is not None:
            self._seen, found = _read_file(file)
            self._keys = _by_digest([*self._plain, *found])

    def find(self, authorization: str) -> Key | None:
        """The key in an `Authorization` header's value; None if it has none, or a wrong one.

        It is looked up by its SHA-256. How long that takes says something about the hash of a guess
        at most, and of a guess that has a similar hash nothing follows for the next one.
        """
        if self._file is not None and monotonic() >= self._look_at:
            self._look_again(self._file)
        if authorization[:7].lower() != BEARER:
            return None
        digest = digest_of(authorization[7:].strip())
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def _look_again(self, file: Path) -> None:
        """Take the file's keys if it has changed, be they none; if that fails, those there are stay
        until it can be read."""
        self._look_at = monotonic() + LOOK_EVERY_S
        try:
            seen = _identity(file.stat())
        except OSError:
            seen = None
        if seen == self._seen is not None:
            return
        self._seen = seen
        told = ""
        try:
            self._seen, found = _read_file(file)
            self._keys = _by_digest([*self._plain, *found])
        except NoKeysError as error:  # who takes out the last one means it
            self._keys = _by_digest(self._plain)
            told = f"{error}; those that it had are no longer valid"
        except KeysError as error:
            if isinstance(error.__cause__, OSError):  # which may pass with the file as it is
                self._seen = None
            told = f"{error}; the keys read before stay"
        else:
            log.info("%s has %d keys now", file, len(found))
        if told and told != self._told:  # once, though it is tried each time
            log.error("%s", told)
        self._told = told


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    """Changes when a file is written, or another is put in its place, or who may read it is set."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read_file(file: Path) -> tuple[tuple[int, ...], list[Key]]:
    try:
        with file.open("rb") as opened:
            identity = _identity(os.fstat(opened.fileno()))
            text = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysError(f"api_keys_file (VAE_API_KEYS_FILE) is {file}: {error.strerror}") from error
    where = f"api_keys_file (VAE_API_KEYS_FILE), {file}"
    if len(text) > MAX_FILE_BYTES:
        raise KeysError(f"{where}, has more than {MAX_FILE_BYTES:,} bytes")
    keys = []
    for number, line in enumerate(text.decode(errors="replace").splitlines(), start=1):
        words = line.split("#")[0].split()
        if words:
            try:
                keys.append(read_line(words))
            except ValueError as error:
                # What stands there is not shown: it may be a key.
                raise KeysError(f"{where}, line {number}: {error}") from error
    if not keys:
        raise NoKeysError(f"{where}, has no keys")
    return identity, keys


def read_line(words: list[str]) -> Key:
    """A key from the words of its line. Raises `ValueError`."""
    if not NAME.fullmatch(words[0]):
        raise ValueError("the name is not 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore")
    if len(words) < 2 or not DIGEST.fullmatch(words[1].lower()):
        raise ValueError("the second word is not a SHA-256 of 64 hexadecimal digits")
    scopes, rate = DEFAULT_SCOPES, None
    for word in words[2:]:
        option, _, value = word.partition("=")
        if option == "scopes":
            scopes = read_scopes(value)
        elif option == "rate":
            rate = read_rate(value)
        else:
            raise ValueError("after the SHA-256 there may be scopes=… and rate=… only")
    return Key(name=words[0], digest=bytes.fromhex(words[1]), scopes=scopes, rate=rate)


def read_scopes(text: str) -> frozenset[str]:
    """`infer,metrics`. Raises `ValueError`."""
    scopes = frozenset(text.split(","))
    if wrong := scopes - set(SCOPES):
        raise ValueError(f"scope {min(wrong)[:16]!r} is none of {', '.join(SCOPES)}")
    return scopes


def read_rate(text: str) -> int:
    """Images a second. Raises `ValueError`."""
    if not RATE.fullmatch(text) or not int(text):
        raise ValueError(f"rate {text[:16]!r} is not a whole number from 1 to 999999999")
    return int(text)


def _read_plain(text: str) -> list[Key]:
    found = []
    for number, key in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        if len(key) < MIN_KEY_LENGTH:
            raise KeysError(
                f"api_keys (VAE_API_KEYS): key {number} has {len(key)} characters < minimum "
                f"{MIN_KEY_LENGTH}; python -m service.keys makes one"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise KeysError(
                f"api_keys (VAE_API_KEYS): key {number} has characters that are not printable ASCII"
            )
        found.append(Key(name=f"key-{number}", digest=digest_of(key), scopes=frozenset(SCOPES)))
    if not found:
        raise KeysError("api_keys (VAE_API_KEYS) has no keys")
    return found


def _by_digest(keys: Sequence[Key]) -> Mapping[bytes, Key]:
    for what in ("name", "digest"):
        seen: dict[object, Key] = {}
        for key in keys:
            other = seen.setdefault(getattr(key, what), key)
            if other is not key:
                raise KeysError(f"the API keys {other.name} and {key.name} have the same {what}")
    return {key.digest: key for key in keys}
