"""Files in which the workers count, so that each of them can report the totals.

prometheus_client maps these files into memory. Writing to a hole of a mapped file on a full disk
raises SIGBUS, which would end the process. So all files are filled before they are mapped, and none
is created or grown later.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import values

log = logging.getLogger("service")

IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the directory made there is its owner's alone
"""A file system in memory, which a full disk does not affect."""

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the directory of prometheus_client's files."""

PERSISTENT: Final = ("counter", "histogram", "gauge_max")
"""Kinds of metrics that outlive a worker: its successor in the slot keeps counting."""

LIVE: Final = ("gauge_livesum", "gauge_livemax")
"""Kinds that only mean something while their worker is running."""

FILE_BYTES: Final = 512 * 1024
"""Size of the file of one kind and one worker. All routes with all their methods and statuses need
about 200 KiB, infer requests 30 KiB, and a bundle's name and version 200 bytes."""

HEADER_BYTES: Final = 8
"""The start of a file, which says how much of it is used."""


@dataclass(frozen=True)
class SharedCounts:
    """A directory with the files of all workers, which are numbered by slot: 0, 1, …"""

    directory: Path

    def join(self, slot: int) -> None:
        """Make this process count in the files of `slot`. Call it before creating any metrics.

        If the files have been deleted, the process counts on its own and logs a warning.
        """
        try:
            complete = all(
                self._file(kind, slot).stat().st_size == FILE_BYTES for kind in (*PERSISTENT, *LIVE)
            )
        except OSError:
            complete = False
        if not complete:
            log.warning(
                "this worker counts on its own, as its files in %s have been deleted",
                self.directory,
            )
            return
        os.environ[DIRECTORY_VARIABLE] = str(self.directory)
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call] # no types

    def forget(self, slot: int) -> None:
        """Clear the live metrics of a worker that has ended, without shrinking its files."""
        with suppress(OSError):  # someone has deleted them
            for kind in LIVE:
                with self._file(kind, slot).open("r+b") as file:
                    file.write(bytes(HEADER_BYTES))

    def fill(self, slots: int) -> None:
        """Create all files. Raises `OSError` if they do not fit."""
        for slot in range(slots):
            for kind in (*PERSISTENT, *LIVE):
                self._file(kind, slot).write_bytes(bytes(FILE_BYTES))

    def _file(self, kind: str, slot: int) -> Path:
        return self.directory / f"{kind}_{slot}.db"


@contextmanager
def shared_counts(slots: int) -> Iterator[SharedCounts | None]:
    """Files for `slots` workers, in memory if possible, else in the temporary directory.

    They are deleted afterwards. Gives None, and logs a warning, if they cannot be created: then
    each worker counts on its own.
    """
    counts = _create(slots)
    try:
        yield counts
    finally:
        if counts:
            shutil.rmtree(counts.directory, ignore_errors=True)


def _create(slots: int) -> SharedCounts | None:
    reasons = []
    for parent in (IN_MEMORY, None):
        directory: str | None = None
        try:
            directory = tempfile.mkdtemp(prefix="vae-metrics-", dir=parent)
            counts = SharedCounts(Path(directory))
            counts.fill(slots)
        except OSError as error:
            reasons.append(str(error))
            if directory:
                shutil.rmtree(directory, ignore_errors=True)
        else:
            return counts
    log.warning(
        "each worker counts on its own, as shared files cannot be created: %s", "; ".join(reasons)
    )
    return None
