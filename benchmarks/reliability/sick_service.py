"""The service with a network that can be made to fail from outside.

A file in the directory `SICK_DIRECTORY`, named by a process's id, says what is wrong with that
process's network from then on: `hang`, `raise` or `wrong`. Workers come to this by importing it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from model.engine.engine import Engine
from service.__main__ import main

DIRECTORY: Final = Path(os.environ.get("SICK_DIRECTORY", "/nonexistent"))

_score = Engine.score


class SickError(Exception):
    """Raised by a network that always fails."""


def score(self: Engine, images: Any, name: str | None = None) -> Any:
    """`Engine.score`, or what the file says. It hangs in the inference thread only."""
    flag = DIRECTORY / str(os.getpid())
    illness = flag.read_text() if flag.exists() else ""
    in_loop = threading.current_thread() is threading.main_thread()
    if illness == "hang everywhere" or (illness == "hang" and not in_loop):
        time.sleep(3600)
    if illness == "raise":
        raise SickError
    found = _score(self, images, name)
    if illness == "wrong":
        return type(found)(*(column * 1.5 + 1 for column in found))
    return found


Engine.score = score  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
