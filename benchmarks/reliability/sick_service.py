"""The service with a network that can be made to fail from outside.

A file in the directory `SICK_DIRECTORY`, named after the id of a process, says how the network of
that process fails from then on: `hang`, `hang everywhere`, `raise` or `wrong`. Worker processes
import this module, so this holds for them, too.
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
    """`Engine.score`, or the failure named in the file. `hang` spares the event loop."""
    flag = DIRECTORY / str(os.getpid())
    illness = flag.read_text() if flag.exists() else ""
    in_loop = threading.current_thread() is threading.main_thread()
    if illness == "hang everywhere" or (illness == "hang" and not in_loop):
        time.sleep(3600)
    if illness == "raise":
        raise SickError
    result = _score(self, images, name)
    if illness == "wrong":
        return type(result)(*(column * 1.5 + 1 for column in result))
    return result


Engine.score = score  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
