"""Download a data set's original files; only complete, verified files reach the directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from time import monotonic, sleep
from typing import Final
from uuid import uuid4

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_S: Final = 5.0
"""Seconds between two lines of progress where there is no terminal to show a bar on, here and in
the commands. The log of an hour then has 720 of them."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its authors published it, which is what every mirror's copy is checked against."""

    name: str
    size: int  # bytes
    sha256: str  # hex


@dataclass(frozen=True)
class DataSet:
    """Files, and mirrors that each hold all of them: a file's URL is mirror + name."""

    mirrors: tuple[str, ...]
    files: tuple[RemoteFile, ...]


_IDX_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _idx_files(*facts: tuple[int, str]) -> tuple[RemoteFile, ...]:
    """The files of an MNIST-like set, from the size and sha256 of each of `_IDX_NAMES`."""
    return tuple(RemoteFile(name, *fact) for name, fact in zip(_IDX_NAMES, facts, strict=True))


DATA_SETS: Mapping[str, DataSet] = {
    "mnist": DataSet(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        files=_idx_files(
            (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    ),
    "fashion-mnist": DataSet(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        files=_idx_files(
            (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    ),
}


class DownloadError(RuntimeError):
    """A file could not be downloaded or stored. The message lists each URL tried and its error."""


class _AttemptError(Exception):
    """A mirror's response is unusable."""


def download(
    name: str,
    directory: Path,
    *,
    mirrors: Sequence[str] | None = None,
    attempts: int = 4,
    backoff_s: float = 1.0,
    timeout_s: float = 30.0,
    console: Console | None = None,
) -> list[Path]:
    """Download `DATA_SETS[name]` into `directory`. Return its files' paths, in the table's order.

        download("mnist", Path("data/mnist"))

    A file that is already there with the right sha256 is kept and not downloaded. One with a wrong
    sha256 stays until its replacement is verified. No failure, nor Ctrl-C, leaves a partial file
    in `directory`.

    Each file gets `attempts` attempts. They cycle through `mirrors` (default: the data set's own)
    and pause for `backoff_s`, 2·`backoff_s`, 4·`backoff_s` … seconds in between. A connection that
    is silent for `timeout_s` seconds counts as failed. Progress goes to `console` (default:
    stderr): a bar if it is a terminal, and one line per file.

    Raises `DownloadError` for an unknown name, if all attempts fail, or if `directory` cannot be
    written.
    """
    if name not in DATA_SETS:
        raise DownloadError(f"unknown data set {name!r}; known: {', '.join(sorted(DATA_SETS))}")
    data_set = DATA_SETS[name]
    console = console or Console(stderr=True)
    mirror_per_attempt = list(islice(cycle(mirrors or data_set.mirrors), attempts))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        missing = []
        for file in data_set.files:
            if _is_complete(directory / file.name, file):
                _report(console, file, "already there")
            else:
                missing.append(file)
        with (
            # identity: the hash is of the .gz itself, so no mirror may add a content encoding.
            httpx.Client(
                timeout=timeout_s, follow_redirects=True, headers={"Accept-Encoding": "identity"}
            ) as client,
            _progress(console, total=sum(file.size for file in missing)) as progress,
        ):
            for file in missing:
                _fetch(client, mirror_per_attempt, file, directory, backoff_s, progress)
                _report(console, file, "downloaded")
    except OSError as error:
        raise DownloadError(f"cannot download {name} to {directory}: {error}") from error
    return [directory / file.name for file in data_set.files]


def _fetch(
    client: httpx.Client,
    mirrors: Sequence[str],
    file: RemoteFile,
    directory: Path,
    backoff_s: float,
    progress: Progress,
) -> None:
    """Try each of `mirrors` once, in order, until one delivers the file."""
    task = progress.tasks[0]
    done = task.completed
    failures = []
    for attempt, mirror in enumerate(mirrors):
        if attempt > 0:
            sleep(backoff_s * 2 ** (attempt - 1))
        progress.update(task.id, description=file.name, completed=done)
        url = f"{mirror.rstrip('/')}/{file.name}"
        try:
            return _fetch_once(client, url, file, directory, progress)
        except _AttemptError as error:
            failures.append(f"{url}: {error}")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failures.append(f"{url}: {type(error).__name__}: {error}")
    raise DownloadError(
        "\n  ".join([f"{file.name}: none of {len(mirrors)} attempts worked", *failures])
    )


def _fetch_once(
    client: httpx.Client, url: str, file: RemoteFile, directory: Path, progress: Progress
) -> None:
    """Stream to a temporary file beside the target, verify it, and only then replace the target."""
    # Not tempfile: its files are private to the user, and an interrupt could come before `try`.
    part = directory / f".{file.name}.{uuid4().hex}.part"
    digest, size = hashlib.sha256(), 0
    said_s = monotonic()
    try:
        with client.stream("GET", url) as response, part.open("xb") as out:
            if response.status_code != httpx.codes.OK:
                raise _AttemptError(f"HTTP status {response.status_code}")
            for chunk in response.iter_raw():
                size += len(chunk)
                if size > file.size:
                    raise _AttemptError(f"more than the expected {file.size:,} bytes arrived")
                digest.update(chunk)
                out.write(chunk)
                progress.advance(progress.tasks[0].id, len(chunk))
                if progress.disable and monotonic() - said_s >= LINE_S:
                    said_s = monotonic()
                    _report(progress.console, file, f"{size:,} downloaded so far")
            if size != file.size:
                raise _AttemptError(f"{size:,} bytes arrived, expected {file.size:,}")
            if (actual := digest.hexdigest()) != file.sha256:
                raise _AttemptError(f"sha256 is {actual[:12]}…, expected {file.sha256[:12]}…")
            out.flush()
            os.fsync(out.fileno())
        part.replace(directory / file.name)
    finally:
        part.unlink(missing_ok=True)


def _is_complete(path: Path, file: RemoteFile) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _progress(console: Console, total: int) -> Progress:
    """One bar over the bytes of all files, labelled with the name of the current file."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_interactive,
    )
    progress.add_task("", total=total)
    return progress


def _report(console: Console, file: RemoteFile, outcome: str) -> None:
    line = f"{file.name}: {file.size:,} bytes, {outcome}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
