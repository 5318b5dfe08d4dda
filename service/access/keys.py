"""API keys. `python -m service.keys NAME` makes one.

A key file has one line per key: its name, its SHA-256, its scopes and its rate limit. It is in
UTF-8, unless a byte order mark says otherwise.

::

    # comment
    alice 3f1c…  scopes=infer,metrics rate=1000
"""

from __future__ import annotations

import codecs
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
"""`infer` covers images and the model, `metrics` is `/metrics`, `admin` is `/model/reload`."""

DEFAULT_SCOPES: Final = frozenset({"infer"})

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Limited to characters that are safe in logs."""

DIGEST: Final = re.compile(r"[0-9a-f]{64}")

RATE: Final = re.compile(r"[0-9]{1,9}")

MIN_KEY_LENGTH: Final = 16
"""16 random base64 characters are 96 bits, too many to guess."""

MAX_FILE_BYTES: Final = 512 * 1024
"""Room for a few thousand keys. The file is read on the event loop, between two requests."""

BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)
"""What a file begins with, by its encoding. Windows PowerShell's `>` and `>>` write UTF-16."""

BYTE_ORDER_MARK: Final = "\ufeff"

CHECK_INTERVAL_S: Final = 1.0
"""How often the file is checked for changes."""

BEARER: Final = "bearer "
"""Precedes the key in `Authorization`. Case does not matter (RFC 9110, section 11.1)."""


class KeysError(Exception):
    """The keys cannot be used. The message is one line and contains no key."""


class NoKeysError(KeysError):
    """The file contains no keys."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Key:
    """What is known about a key. The key itself is not stored."""

    name: str
    digest: bytes
    """SHA-256 of the key. Keys are long and random, so they need no slow hash as passwords do."""
    scopes: frozenset[str] = DEFAULT_SCOPES
    rate: int | None = None
    """Images per second; None means no limit."""


def digest_of(key: str) -> bytes:
    """The SHA-256 under which a key is stored."""
    return sha256(key.encode("latin-1", "replace")).digest()


def digest_of_header(authorization: str | None) -> bytes | None:
    """The digest of the key in an `Authorization` header's value; None if there is none."""
    if authorization is None or authorization[:7].lower() != BEARER:
        return None
    return digest_of(authorization[7:].strip())


class Keys:
    """The keys of `file`, which is reloaded when it changes, and of the `api_keys` setting.

    Raises `KeysError` if any of them cannot be used.
    """

    def __init__(self, file: Path | None, setting: str | None) -> None:
        self._setting_keys = [] if setting is None else _read_setting(setting)
        self._keys = _by_digest(self._setting_keys)
        self._file = file
        self._file_identity: tuple[int, ...] | None = None
        self._last_error = ""
        self._next_check_at = monotonic() + CHECK_INTERVAL_S
        if file is not None:
            self._file_identity, file_keys = _read_file(file)
            self._keys = _by_digest([*self._setting_keys, *file_keys])

    def of_digest(self, digest: bytes) -> Key | None:
        """The key with this SHA-256; None if it is unknown.

        The duration of the look-up can at most reveal something about the hash of a guess, which
        does not help to find a better guess.
        """
        if self._file is not None and monotonic() >= self._next_check_at:
            self._reload_if_changed(self._file)
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def _reload_if_changed(self, file: Path) -> None:
        """Reload the file if it has changed. If it cannot be used, keep the current keys; if it
        contains no keys, drop them."""
        self._next_check_at = monotonic() + CHECK_INTERVAL_S
        try:
            identity = _identity(file.stat())
        except OSError:
            identity = None
        if identity == self._file_identity is not None:
            return
        self._file_identity = identity
        problem = ""
        try:
            self._file_identity, file_keys = _read_file(file)
            self._keys = _by_digest([*self._setting_keys, *file_keys])
        except NoKeysError as error:  # removing the last key is deliberate
            self._keys = _by_digest(self._setting_keys)
            problem = f"{error}; the keys read from it before are no longer valid"
        except KeysError as error:
            if isinstance(error.__cause__, OSError):  # may go away without a change to the file
                self._file_identity = None
            problem = f"{error}; the keys read before stay valid"
        else:
            log.info("%s was reloaded: it has %d keys now", file, len(file_keys))
        if problem and problem != self._last_error:  # logged once, although every check retries
            log.error("%s", problem)
        self._last_error = problem


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    """Changes when a file is written, replaced, or has its permissions changed."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read_file(file: Path) -> tuple[tuple[int, ...], list[Key]]:
    try:
        with file.open("rb") as opened:
            identity = _identity(os.fstat(opened.fileno()))
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysError(f"api_keys_file (VAE_API_KEYS_FILE) is {file}: {error.strerror}") from error
    where = f"api_keys_file (VAE_API_KEYS_FILE), {file}"
    if len(content) > MAX_FILE_BYTES:
        raise KeysError(f"{where}, has more than {MAX_FILE_BYTES:,} bytes, the maximum")
    encoding, text = _decode(content)
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            if "\0" in line:
                raise ValueError(
                    "there are null bytes, as if this part of the file were in another encoding "
                    "(Windows PowerShell's >> appends UTF-16); save the whole file as UTF-8"
                )
            # Files that were joined each bring their mark.
            words = line.lstrip(BYTE_ORDER_MARK).split("#")[0].split()
            if words:
                keys.append(read_line(words))
        except ValueError as error:
            # The line is not shown: it may contain a key.
            as_read = "" if encoding == "UTF-8" else f" (read as {encoding}, as the file begins)"
            raise KeysError(f"{where}, line {number}: {error}{as_read}") from error
    if not keys:
        raise NoKeysError(f"{where}, has no keys")
    return identity, keys


def _decode(content: bytes) -> tuple[str, str]:
    """A key file's encoding, UTF-8 unless a byte order mark says otherwise, and its text."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return encoding, content.removeprefix(mark).decode(encoding, "replace")
    return "UTF-8", content.decode(errors="replace")


def read_line(words: list[str]) -> Key:
    """Parse the words of a key's line. Raises `ValueError`."""
    if not NAME.fullmatch(words[0]):
        raise ValueError(
            "the name is not 1 to 64 characters of A-Z, a-z, 0-9, dot, dash and underscore"
        )
    if len(words) < 2 or not DIGEST.fullmatch(words[1].lower()):
        raise ValueError(
            "the second word is not a SHA-256 of 64 hexadecimal digits; a line is what "
            "python -m service.keys prints, and not the key itself"
        )
    scopes, rate = DEFAULT_SCOPES, None
    for word in words[2:]:
        option, _, value = word.partition("=")
        if option == "scopes":
            scopes = read_scopes(value)
        elif option == "rate":
            rate = read_rate(value)
        else:
            raise ValueError("only scopes=… and rate=… may follow the SHA-256")
    return Key(name=words[0], digest=bytes.fromhex(words[1]), scopes=scopes, rate=rate)


def read_scopes(text: str) -> frozenset[str]:
    """Parse scopes such as `infer,metrics`. Raises `ValueError`."""
    scopes = frozenset(text.split(","))
    if unknown := scopes - set(SCOPES):
        raise ValueError(f"scope {min(unknown)[:16]!r} is not one of {', '.join(SCOPES)}")
    return scopes


def read_rate(text: str) -> int:
    """Parse a rate in images per second. Raises `ValueError`."""
    if not RATE.fullmatch(text) or not int(text):
        raise ValueError(f"rate {text[:16]!r} is not a whole number from 1 to 999999999")
    return int(text)


def _read_setting(text: str) -> list[Key]:
    keys = []
    for number, key in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        if len(key) < MIN_KEY_LENGTH:
            raise KeysError(
                f"api_keys (VAE_API_KEYS): key {number} has {len(key)} characters < minimum "
                f"{MIN_KEY_LENGTH}; make one with python -m service.keys"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise KeysError(
                f"api_keys (VAE_API_KEYS): key {number} has characters other than printable ASCII"
            )
        keys.append(Key(name=f"key-{number}", digest=digest_of(key), scopes=frozenset(SCOPES)))
    if not keys:
        raise KeysError("api_keys (VAE_API_KEYS) has no keys")
    return keys


def _by_digest(keys: Sequence[Key]) -> Mapping[bytes, Key]:
    for attribute in ("name", "digest"):
        seen: dict[object, Key] = {}
        for key in keys:
            first = seen.setdefault(getattr(key, attribute), key)
            if first is not key:
                raise KeysError(
                    f"the API keys {first.name} and {key.name} have the same {attribute}"
                )
    return {key.digest: key for key in keys}
