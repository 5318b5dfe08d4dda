"""`vae score`: which images, one request for each, and where the results go."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Final, TextIO

from service.client.addresses import is_refusal
from service.client.calls import (
    ClientError,
    ImageScore,
    ProblemError,
    UnreachableError,
    each,
)
from service.client.client import Client
from service.client.folders import (
    HEAT_MAPS,
    IMAGE_SUFFIXES,
    explained,
    is_file,
    is_folder,
    numbered,
    printable,
    scan,
    summary,
)

KEY_VARIABLE: Final = "VAE_API_KEY"
"""The key is not a flag, because other users of the machine can see a process's flags."""

OK: Final = 0

FAILED: Final = 1
"""Exit status if an image could not be scored."""

WRONG_COMMAND: Final = 2
"""Exit status for a command line that cannot be carried out, as of argparse."""

ANOMALY: Final = 3
"""Exit status with --fail-on-anomaly if all images were scored and one is an anomaly."""

STANDARD_INPUT: Final = "-"

FIELDS: Final = ("file", *ImageScore._fields)

MAP_SIDE: Final = 256
"""Maps of smaller images are enlarged to about this many pixels, for people to see."""

MAX_UNREACHABLE: Final = 3
"""After this number of requests in a row without an answer, no more are sent."""

PROXY_STATUSES: Final = frozenset({502, 503, 504})
"""What a proxy says that got no answer from the service."""

TOO_LARGE: Final = 413
"""Of one image, which a proxy may refuse too."""

PROGRESS_S: Final = 5.0
"""Seconds between two lines of progress, while results are held back."""


@dataclass(frozen=True)
class Target:
    """An image to score."""

    name: str
    """As the results name it: `-`, or the path as it was given or found."""

    def image(self) -> bytes:
        """The image file. Raises `OSError`, and `ValueError` for empty ones."""
        if self.name != STANDARD_INPUT:
            data = Path(self.name).read_bytes()
            if not data:
                raise ValueError("the file is empty")
            return _image_file(data)
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("standard input is a terminal: pipe an image file into it")
        data = sys.stdin.buffer.read()
        if not data:
            raise ValueError("standard input is empty, or was read before")
        if _is_list_of_files(data):
            raise ValueError(
                "standard input has file names, expected an image file: `xargs -d '\\n' vae score` "
                "takes names"
            )
        return _image_file(data)


def _image_file(data: bytes) -> bytes:
    if data.startswith(b"\x93NUMPY"):
        raise ValueError(
            "an .npy file, expected an image file: the Python client scores arrays, and so does "
            "curl --data-binary @FILE.npy ADDRESS/anomaly-score"
        )
    return data


def _is_list_of_files(data: bytes) -> bool:
    first = data.split(b"\n", 1)[0].split(b"\0", 1)[0]
    return bool(first) and (is_folder(path := Path(os.fsdecode(first))) or is_file(path))


@dataclass(frozen=True)
class Row:
    """The result of one image."""

    target: Target
    scored: ImageScore
    alpha: float
    can_be_anomaly: bool
    """Whether any image can be one: there are p-values, and not all are above `alpha`."""
    map: Path | None


class StoppedError(Exception):
    """No further request makes sense. The message says why, and `status` is the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def score(arguments: argparse.Namespace) -> int:
    """Score the images and print the results. Returns the exit status.

    Raises `ValueError` for options that cannot be carried out, and `OSError` if results cannot be
    written.
    """
    client = Client(arguments.url, api_key=os.environ.get(KEY_VARIABLE))
    targets, failures = _targets(arguments.images, arguments.maps)
    _check_outputs(arguments, targets)
    rows: list[Row] = []
    done = anomalies = 0
    unjudged: Row | None = None
    stopped: StoppedError | None = None
    with ExitStack() as stack:
        stack.enter_context(client)
        writers = _writers(arguments, targets, stack)
        held_since = time.monotonic()
        session = _Session(client, arguments, targets)
        try:
            for target in targets:
                row = session.row(target)
                done += 1
                if row is None:
                    failures += 1
                    continue
                if not row.can_be_anomaly:
                    unjudged = row
                anomalies += bool(row.scored.is_anomaly)
                if arguments.fdr:  # whether it is an anomaly depends on all that follow
                    rows.append(row)
                    if time.monotonic() - held_since >= PROGRESS_S:
                        held_since = time.monotonic()
                        say(f"scored {done:,} of {numbered(len(targets), 'image')}")
                else:
                    _write(writers, row)
        except StoppedError as error:
            stopped = error
        if arguments.fdr:
            rows = _discoveries(rows)
            anomalies = sum(bool(row.scored.is_anomaly) for row in rows)
            for row in rows:
                _write(writers, row)
    if stopped is not None:
        missed = len(targets) - done
        say(f"{stopped}; {numbered(missed, 'image')} {'was' if missed == 1 else 'were'} not scored")
        return stopped.status
    if unjudged is not None and (arguments.fail_on_anomaly or unjudged.scored.p_value is not None):
        say(_why_unjudged(unjudged))
    if failures or (arguments.fail_on_anomaly and unjudged is not None):
        return FAILED
    return ANOMALY if arguments.fail_on_anomaly and anomalies else OK


def _why_unjudged(row: Row) -> str:
    if row.scored.p_value is None:
        return (
            "the service gave no p-values, so no image can be called an anomaly: calibrate the "
            "bundle, or use a score that is calibrated"
        )
    return (
        f"alpha {row.alpha:g} is below the smallest p-value that this calibration can give, so no "
        "image can be called an anomaly: calibrate on more images, or use a larger --alpha"
    )


def say(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def _targets(given: Sequence[str], maps: Path | None) -> tuple[list[Target], int]:
    """The images, and how many folders hold none. Says what is left out of folders."""
    targets: list[Target] = []
    empty = 0
    for name in given:
        path = Path(name)
        if name == STANDARD_INPUT or not is_folder(path):
            targets.append(Target(name))
            continue
        if maps is not None and maps.resolve() == path.resolve():
            raise ValueError(
                f"--maps names {path}, whose images are scored: the next run would score the maps "
                "too, so choose another folder"
            )
        found = scan(path, maps)
        shown = printable(name)
        if not found.images:
            empty += 1
            say(f"{shown}: no image files in this folder")
        elif found.left_out:
            say(f"{shown}: {numbered(len(found.images), 'image')}")
        for line in summary(found.left_out):
            say(f"{shown}: {line}")
        targets.extend(Target(str(image)) for image in found.images)
    return targets, empty


def _check_outputs(arguments: argparse.Namespace, targets: Sequence[Target]) -> None:
    """Raise `ValueError` for a CSV file that would replace an image, as in `--csv *.png`."""
    out: str | None = arguments.csv
    if out == STANDARD_INPUT and sys.stdout is None:
        raise ValueError("--csv - prints to standard output, which is closed")
    if out == STANDARD_INPUT and arguments.json:
        raise ValueError("--json and --csv - both print to standard output: choose one")
    if out is None or out == STANDARD_INPUT:
        return
    inputs = {Path(target.name).resolve() for target in targets}
    if Path(out).suffix.lower() in IMAGE_SUFFIXES or Path(out).resolve() in inputs:
        raise ValueError(f"--csv names {printable(out)}, which is an image and not replaced")


class _Session:
    """Sends the requests."""

    def __init__(
        self, client: Client, arguments: argparse.Namespace, targets: Sequence[Target]
    ) -> None:
        self._client = client
        self._options = {"score": arguments.score, "invert": arguments.invert}
        self._alpha: float | None = arguments.alpha
        self._fdr: bool = arguments.fdr
        self._unreachable = 0
        self._maps = None if arguments.maps is None else MapNames(arguments.maps, targets)
        self._scale: int | None = None

    def row(self, target: Target) -> Row | None:
        """The result for one image, or None if it has none, which is said on standard error.

        One request for each, so that a broken file does not affect the others. Raises
        `StoppedError` if other requests would fail too.
        """
        name = printable(target.name)
        try:
            image = target.image()
            scores = self._client.anomaly_score(image, alpha=self._alpha, **self._options)
            (scored,) = each(scores)
            path = None if self._maps is None else self._write_map(image, target, self._maps)
        except ClientError as error:
            self._stop_if_hopeless(error)
            say(f"{name}: {error}")
            return None
        except OSError as error:
            say(f"{name}: {explained(error)}")
            return None
        except ValueError as error:
            say(f"{name}: {error}")
            return None
        self._unreachable = 0
        can_be = scores.p_value is not None and (self._fdr or scores.threshold is not None)
        return Row(target, scored, scores.alpha, can_be, path)

    def _write_map(self, image: bytes, target: Target, names: MapNames) -> Path:
        if self._scale is None:
            _, height, width = self._client.model()["image_shape"]
            self._scale = max(1, MAP_SIDE // max(height, width))
        png = self._client.anomaly_map_png(image, scale=self._scale, **self._options)
        path = names.path_of(target)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
        except OSError as error:
            raise ValueError(f"its map {path} cannot be written: {explained(error)}") from error
        return path

    def _stop_if_hopeless(self, error: ClientError) -> None:
        """Raise `StoppedError` for errors that are not about this one image."""
        if isinstance(error, UnreachableError) or (
            isinstance(error, ProblemError)
            and error.status in PROXY_STATUSES
            and not error.request_id
        ):
            self._unreachable += 1
            if is_refusal(error.__cause__) or self._unreachable == MAX_UNREACHABLE:
                raise StoppedError(str(error)) from error
        elif isinstance(error, ProblemError):
            self._unreachable = 0
            if any(list(item.get("loc", ()))[:1] == ["query"] for item in error.errors):
                raise StoppedError(str(error), WRONG_COMMAND) from error
            is_other_server = not error.request_id and error.status != TOO_LARGE
            if is_other_server or error.status in {401, 403, 404, 405}:
                raise StoppedError(str(error)) from error
        else:  # an answer that is not this service's
            raise StoppedError(str(error)) from error


class MapNames:
    """Names for the maps, below their folder as the images are named: `a/b.jpg` → `a/b.jpg.png`.

    No two are the same, also where upper and lower case are one, and none is that of an image.
    """

    def __init__(self, folder: Path, targets: Sequence[Target]) -> None:
        self._folder = folder
        self._used = {_comparable(Path(target.name)) for target in targets}

    def path_of(self, target: Target) -> Path:
        """A name that was not used before."""
        given = PurePath("stdin" if target.name == STANDARD_INPUT else target.name)
        parts = [part for part in given.parts if part not in {given.anchor, ".."}]
        number = 1
        while True:
            ending = ".png" if number == 1 else f"-{number}.png"
            path = self._folder.joinpath(*parts[:-1], parts[-1] + ending)
            if (key := _comparable(path)) not in self._used:
                self._used.add(key)
                return path
            number += 1


def _comparable(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path.resolve())).casefold()


def _discoveries(rows: Sequence[Row]) -> list[Row]:
    """The rows with the verdicts of Benjamini and Hochberg (1995) on all p-values together.

    The service's own `fdr=bh` is about the images of one request.
    """
    p_values = [row.scored.p_value for row in rows]
    if not rows or None in p_values:
        return list(rows)
    ordered = sorted(p for p in p_values if p is not None)
    bounds = [rows[0].alpha * (i + 1) / len(ordered) for i in range(len(ordered))]
    within = [bound for p, bound in zip(ordered, bounds, strict=True) if p <= bound]
    cut = within[-1] if within else bounds[0]
    return [
        replace(
            row,
            scored=row.scored._replace(is_anomaly=(row.scored.p_value or 0.0) <= cut),
        )
        for row in rows
    ]


# What is written


class _Table:
    """Its head comes with the first row, so that there is none without rows."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, map(printable, names)), default=4)
        self._has_head = False

    def write(self, row: Row) -> None:
        if not self._has_head:
            self._has_head = True
            self._line("file", f"{'score':>9}  {'p-value':>8}  anomaly  {'mse':>9}  {'kl':>7}")
        self._line(printable(row.target.name), _columns(row.scored))

    def _line(self, name: str, columns: str) -> None:
        print(f"{name:{self._width}}  {columns}", flush=True)


class _JSONLines:
    def write(self, row: Row) -> None:
        values: dict[str, Any] = {"file": row.target.name, **row.scored._asdict()}
        if row.map is not None:
            values["map"] = str(row.map)
        print(json.dumps(values), flush=True)


class _CSV:
    def __init__(self, file: TextIO, has_maps: bool) -> None:
        self._file = file
        self._writer = csv.DictWriter(
            file, [*FIELDS, *(["map"] if has_maps else [])], lineterminator="\n"
        )
        self._writer.writeheader()

    def write(self, row: Row) -> None:
        values: dict[str, Any] = {"file": row.target.name, **row.scored._asdict()}
        if row.scored.is_anomaly is not None:
            values["is_anomaly"] = str(row.scored.is_anomaly).lower()
        if row.map is not None:
            values["map"] = str(row.map)
        self._writer.writerow(values)
        self._file.flush()


Writer = _Table | _JSONLines | _CSV


def _writers(
    arguments: argparse.Namespace, targets: Sequence[Target], stack: ExitStack
) -> list[Writer]:
    """Raises `ValueError` if the CSV file or the folder of maps cannot be made."""
    writers: list[Writer] = []
    has_maps = arguments.maps is not None
    if has_maps:
        try:
            _make_folder_of_maps(arguments.maps)
        except OSError as error:
            raise ValueError(f"--maps {arguments.maps}: {explained(error)}") from error
    if arguments.csv == STANDARD_INPUT:
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr] # a TextIO
        writers.append(_CSV(sys.stdout, has_maps))
    elif arguments.csv is not None:
        try:
            # surrogateescape, so that a name that is not UTF-8 is the file's own
            file = Path(arguments.csv).open(  # noqa: SIM115 - the stack closes it
                "w", encoding="utf-8", errors="surrogateescape", newline=""
            )
        except OSError as error:
            raise ValueError(f"--csv {arguments.csv}: {explained(error)}") from error
        writers.append(_CSV(stack.enter_context(file), has_maps))
    if arguments.json:
        writers.append(_JSONLines())
    elif arguments.csv != STANDARD_INPUT:
        writers.append(_Table([target.name for target in targets]))
    return writers


def _make_folder_of_maps(folder: Path) -> None:
    """Marked, so that neither a later run nor a training takes the maps for photographs. A folder
    that held files before is not marked, as they may be photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        (folder / HEAT_MAPS).touch()


def _write(writers: Sequence[Writer], row: Row) -> None:
    for writer in writers:
        writer.write(row)


def _columns(scored: ImageScore) -> str:
    p_value = "–" if scored.p_value is None else f"{scored.p_value:.4f}"
    anomaly = {None: "–", True: "yes", False: "no"}[scored.is_anomaly]
    return f"{scored.score:9.5f}  {p_value:>8}  {anomaly:>7}  {scored.mse:9.5f}  {scored.kl:7.2f}"
