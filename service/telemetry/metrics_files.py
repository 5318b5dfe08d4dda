"""Files in which several workers count, so that each can add up what all of them have counted.

prometheus_client writes into them through memory maps. Where a file has holes and the disk is full,
such a write is no error but a SIGBUS, which ends the process: so all of them are filled before
they are mapped, and none is made or grown later.
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
"""Where files are memory, and a full disk is none of theirs."""

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Tells prometheus_client where its files are."""

LASTING: Final = ("counter", "histogram")
"""Kinds of metrics that outlive the worker that counted: the next one in its place goes on."""

LIVE: Final = ("gauge_livesum", "gauge_livemax")
"""Kinds that are true of a running worker only."""

FILE_BYTES: Final = 256 * 1024
"""Of one kind and one worker. All routes with all of their statuses take half of it, and a model's
name and version 200 bytes."""

HEAD_BYTES: Final = 8
"""At a file's start: how much of it is used."""


@dataclass(frozen=True)
class SharedCounts:
    """A directory with the files of each worker, who are told apart by their places, 0, 1, …"""

    directory: Path

    def join(self, place: int) -> None:
        """Let the metrics of this process, which are to be made yet, count in `place`'s files.

        Where somebody has removed those, it counts on its own, and says so.
        """
        try:
            whole = all(
                self._file(kind, place).stat().st_size == FILE_BYTES for kind in (*LASTING, *LIVE)
            )
        except OSError:
            whole = False
        if not whole:
            log.warning("a worker counts on its own: its files in %s are gone", self.directory)
            return
        os.environ[DIRECTORY_VARIABLE] = str(self.directory)
        values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call] # no types

    def forget(self, place: int) -> None:
        """Drop what was true only while that worker lived. Its files stay as large as they are."""
        with suppress(OSError):  # somebody has removed them
            for kind in LIVE:
                with self._file(kind, place).open("r+b") as file:
                    file.write(bytes(HEAD_BYTES))

    def fill(self, places: int) -> None:
        """Make all files. Raises `OSError` where there is no room for them."""
        for place in range(places):
            for kind in (*LASTING, *LIVE):
                self._file(kind, place).write_bytes(bytes(FILE_BYTES))

    def _file(self, kind: str, place: int) -> Path:
        return self.directory / f"{kind}_{place}.db"


@contextmanager
def shared_counts(places: int) -> Iterator[SharedCounts | None]:
    """Files for so many workers, in memory if there is budget, or else in the temporary directory.

    They are gone afterwards. None, and a warning, where they cannot be made: then each worker
    counts on its own.
    """
    made = _make(places)
    try:
        yield made
    finally:
        if made:
            shutil.rmtree(made.directory, ignore_errors=True)


def _make(places: int) -> SharedCounts | None:
    reasons = []
    for parent in (IN_MEMORY, None):
        directory: str | None = None
        try:
            directory = tempfile.mkdtemp(prefix="vae-metrics-", dir=parent)
            made = SharedCounts(Path(directory))
            made.fill(places)
        except OSError as error:
            reasons.append(str(error))
            if directory:
                shutil.rmtree(directory, ignore_errors=True)
        else:
            return made
    log.warning("each worker counts on its own, as they cannot share: %s", "; ".join(reasons))
    return None
