"""The figures of a run, in a file that every step adds to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

NAME: Final = "gpu"


class Figures:
    """`gpu.json` in a folder.

    Its `steps` say how each step ended, its `figures` what each has measured. Steps run one after
    the other, each in a process of its own, and write whenever they have a figure: a step that is
    stopped leaves the ones before.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{NAME}.json"

    def read(self) -> dict[str, Any]:
        """All of it; empty before `start`."""
        if not self.path.exists():
            return {}
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    def start(self, **about: Any) -> None:
        """Begin a run: what an earlier one has left is gone."""
        self._write(about | {"steps": {}, "figures": {}})

    def add(self, step: str, **figures: Any) -> None:
        """Keep figures of a step beside those that it has."""
        content = self.read() or {"steps": {}, "figures": {}}
        content["figures"].setdefault(step, {}).update(figures)
        self._write(content)

    def end(self, step: str, outcome: str, took_s: float) -> None:
        """Keep how a step ended: `done`, or what went wrong."""
        content = self.read()
        content["steps"][step] = {"outcome": outcome, "took_s": round(took_s, 1)}
        self._write(content)

    def _write(self, content: dict[str, Any]) -> None:
        """Replace the file at once: a step may be killed while it writes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(self.path)
