"""`vae score`: which images, one request for each, and where the results go."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from service.client.addresses import is_refusal
from service.client.calls import (
    ClientError,
    ImageWarning,
    ProblemError,
    UnreachableError,
    each,
)
from service.client.client import Client
from service.client.folders import (
    IMAGE_SUFFIXES,
    explained,
    is_file,
    is_folder,
    numbered,
    printable,
    scan,
    summary,
)
from service.client.results import STANDARD_INPUT, MapNames, Row, open_writers

KEY_VARIABLE: Final = "VAE_API_KEY"
"""The key is not a flag, because other users of the machine can see a process's flags."""

OK: Final = 0

FAILED: Final = 1
"""Exit status if an image could not be scored, or its map not written."""

WRONG_COMMAND: Final = 2
"""Exit status for a command line that cannot be carried out, the same as argparse uses."""

ANOMALY: Final = 3
"""Exit status with --fail-on-anomaly if all images were scored and one is an anomaly."""

MAP_SIDE: Final = 256
"""Maps of smaller images are enlarged to about this many pixels, for people to see."""

MAX_UNREACHABLE: Final = 3
"""After this number of requests in a row without an answer, no more are sent."""

PROXY_STATUSES: Final = frozenset({502, 503, 504})
"""What a proxy says that got no answer from the service."""

TOO_LARGE: Final = 413
"""Of one image, which a proxy may refuse too."""

OPTIONS: Final = (
    (re.compile(r"\?bits=(\d+)"), r"--bits \1"),
    (re.compile(r"\?invert=true"), "--invert"),
)
"""Query parameters that the service recommends, as options of this command."""

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
        # Each call's result has its warnings, and they are printed beside the image's name.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ImageWarning)
        names = [target.name for target in targets]
        writers = open_writers(arguments, names, stack)
        held_since = time.monotonic()
        session = _Session(client, arguments, names)
        try:
            for target in targets:
                row = session.row(target)
                done += 1
                if row is None:
                    failures += 1
                    continue
                failures += row.map is None and arguments.maps is not None
                if not row.can_be_anomaly:
                    unjudged = row
                anomalies += bool(row.scored.is_anomaly)
                if arguments.fdr:  # whether it is an anomaly depends on all that follow
                    rows.append(row)
                    if time.monotonic() - held_since >= PROGRESS_S:
                        held_since = time.monotonic()
                        say(f"scored {done:,} of {numbered(len(targets), 'image')}")
                else:
                    for writer in writers:
                        writer.write(row)
        except StoppedError as error:
            stopped = error
        if arguments.fdr:
            rows = _discoveries(rows)
            anomalies = sum(bool(row.scored.is_anomaly) for row in rows)
            for row in rows:
                for writer in writers:
                    writer.write(row)
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

    def __init__(self, client: Client, arguments: argparse.Namespace, names: Sequence[str]) -> None:
        self._client = client
        self._options: dict[str, Any] = {
            "score": arguments.score,
            "invert": arguments.invert,
            "bits": arguments.bits,
        }
        self._alpha: float | None = arguments.alpha
        self._fdr: bool = arguments.fdr
        self._unreachable = 0
        self._maps = None if arguments.maps is None else MapNames(arguments.maps, names)
        self._scale: int | None = None
        self._stopped: StoppedError | None = None

    def row(self, target: Target) -> Row | None:
        """The result for one image, or None if it has none, which is said on standard error.

        One request for each, so that a broken file does not affect the others. Raises
        `StoppedError` if other requests would fail too. A map that cannot be made or written is
        said, too, and the image keeps its score.
        """
        if self._stopped is not None:
            raise self._stopped
        name = printable(target.name)
        try:
            image = target.image()
            scores = self._client.anomaly_score(image, alpha=self._alpha, **self._options)
            (scored,) = each(scores)
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
        for warning in scored.warnings:
            say(f"{name}: warning: {_with_options(warning)}")
        path = None if self._maps is None else self._map(image, target, self._maps)
        return Row(target.name, scored, scores.alpha, can_be, path)

    def _map(self, image: bytes, target: Target, names: MapNames) -> Path | None:
        """The file of an image's map, or None if there is none, which is said."""
        name = printable(target.name)
        try:
            return self._write_map(image, target, names)
        except ClientError as error:
            say(f"{name}: its map cannot be made: {error}")
            try:
                self._stop_if_hopeless(error)
            except StoppedError as stopped:
                self._stopped = stopped  # raised for the next image: this one has a score
        except ValueError as error:
            say(f"{name}: {error}")
        return None

    def _write_map(self, image: bytes, target: Target, names: MapNames) -> Path:
        if self._scale is None:
            _, height, width = self._client.model()["image_shape"]
            self._scale = max(1, MAP_SIDE // max(height, width))
        png = self._client.anomaly_map_png(image, scale=self._scale, **self._options)
        path = names.path_of(target.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
        except OSError as error:
            raise ValueError(
                f"its map {printable(str(path))} cannot be written: {explained(error)}"
            ) from error
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


def _with_options(warning: str) -> str:
    """A warning of the service, with this command's options in place of query parameters.

    >>> _with_options("for a 12-bit camera, add ?bits=12")
    'for a 12-bit camera, add --bits 12'
    """
    for parameter, option in OPTIONS:
        warning = parameter.sub(option, warning)
    return warning


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
