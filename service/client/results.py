"""Where `vae score` writes its results: a table, JSON lines, CSV, and the names of heat maps."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, TextIO

from service.client.calls import ImageScore
from service.client.folders import HEAT_MAPS, explained, is_file, printable

STANDARD_INPUT: Final = "-"
"""The name of the image on standard input; with --csv, of standard output."""

FIELDS: Final = ("score", "p_value", "is_anomaly", "mse", "kl")
"""Of an `ImageScore`, what each row has."""


@dataclass(frozen=True)
class Row:
    """The result of one image."""

    name: str
    """The image, as it was given or found: a path, or `-`."""
    scored: ImageScore
    alpha: float
    can_be_anomaly: bool
    """Whether any image can be one: there are p-values, and not all are above `alpha`."""
    map: Path | None
    """None without --maps, and for a map that could not be made or written."""

    def values(self, has_maps: bool) -> dict[str, Any]:
        """The columns by their names."""
        values = {"file": self.name, **{field: getattr(self.scored, field) for field in FIELDS}}
        if has_maps:
            values["map"] = None if self.map is None else str(self.map)
        return values


class Table:
    """Its head comes with the first row, so that there is none without rows."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, map(printable, names)), default=4)
        self._has_head = False

    def write(self, row: Row) -> None:
        """Print a row."""
        if not self._has_head:
            self._has_head = True
            self._line("file", f"{'score':>9}  {'p-value':>8}  anomaly  {'mse':>9}  {'kl':>7}")
        self._line(printable(row.name), _columns(row.scored))

    def _line(self, name: str, columns: str) -> None:
        print(f"{name:{self._width}}  {columns}", flush=True)


def _columns(scored: ImageScore) -> str:
    p_value = "–" if scored.p_value is None else f"{scored.p_value:.4f}"
    anomaly = {None: "–", True: "yes", False: "no"}[scored.is_anomaly]
    return f"{scored.score:9.5f}  {p_value:>8}  {anomaly:>7}  {scored.mse:9.5f}  {scored.kl:7.2f}"


class JSONLines:
    """An object for each row, with the warnings about its image if there are any."""

    def __init__(self, has_maps: bool) -> None:
        self._has_maps = has_maps

    def write(self, row: Row) -> None:
        """Print a row."""
        values = row.values(self._has_maps)
        if row.scored.warnings:
            values["warnings"] = row.scored.warnings
        print(json.dumps(values), flush=True)


class CSV:
    """A head, and a line for each row; what is None is empty."""

    def __init__(self, file: TextIO, has_maps: bool) -> None:
        self._file = file
        self._has_maps = has_maps
        fields = ["file", *FIELDS, *(["map"] if has_maps else [])]
        self._writer = csv.DictWriter(file, fields, lineterminator="\n")
        self._writer.writeheader()

    def write(self, row: Row) -> None:
        """Write a row, at once."""
        values = row.values(self._has_maps)
        if row.scored.is_anomaly is not None:
            values["is_anomaly"] = str(row.scored.is_anomaly).lower()
        self._writer.writerow(values)
        self._file.flush()


Writer = Table | JSONLines | CSV


def open_writers(
    arguments: argparse.Namespace, names: Sequence[str], stack: ExitStack
) -> list[Writer]:
    """What the options ask for; `stack` closes the files.

    Raises `ValueError` if the CSV file or the folder of maps cannot be made.
    """
    writers: list[Writer] = []
    has_maps = arguments.maps is not None
    if has_maps:
        try:
            _make_folder_of_maps(arguments.maps)
        except OSError as error:
            raise ValueError(f"--maps {arguments.maps}: {explained(error)}") from error
    if arguments.csv == STANDARD_INPUT:
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr] # a TextIO
        writers.append(CSV(sys.stdout, has_maps))
    elif arguments.csv is not None:
        try:
            # surrogateescape, so that a name that is not UTF-8 is the file's own
            file = Path(arguments.csv).open(  # noqa: SIM115 - the stack closes it
                "w", encoding="utf-8", errors="surrogateescape", newline=""
            )
        except OSError as error:
            raise ValueError(f"--csv {arguments.csv}: {explained(error)}") from error
        writers.append(CSV(stack.enter_context(file), has_maps))
    if arguments.json:
        writers.append(JSONLines(has_maps))
    elif arguments.csv != STANDARD_INPUT:
        writers.append(Table(names))
    return writers


def _make_folder_of_maps(folder: Path) -> None:
    """Marked, so that neither a later run nor a training takes the maps for photographs. A folder
    that held files before is not marked, as they may be photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        (folder / HEAT_MAPS).touch()


class MapNames:
    """Names for the maps, below their folder as the images are named: `a/b.jpg` → `a/b.jpg.png`.

    No two are the same, also where upper and lower case are one, and none is that of an image. In a
    folder that is not marked as one of heat maps, none is that of an existing file; in a marked one
    the maps of an earlier run are replaced.
    """

    def __init__(self, folder: Path, images: Sequence[str]) -> None:
        """`folder` exists, and is marked if `open_writers` made it."""
        self._folder = folder
        self._replaces = is_file(folder / HEAT_MAPS)
        self._used = {_comparable(Path(name)) for name in images}

    def path_of(self, image: str) -> Path:
        """A name that was not used before."""
        given = PurePath("stdin" if image == STANDARD_INPUT else image)
        parts = [part for part in given.parts if part not in {given.anchor, ".."}]
        number = 1
        while True:
            ending = ".png" if number == 1 else f"-{number}.png"
            path = self._folder.joinpath(*parts[:-1], parts[-1] + ending)
            is_free = self._replaces or not os.path.lexists(path)
            if is_free and (key := _comparable(path)) not in self._used:
                self._used.add(key)
                return path
            number += 1


def _comparable(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path.resolve())).casefold()
