"""The readers of bodies under atheris, which looks for inputs that reach new lines.

`python -m tests.fuzz.readers -runs=100000 -seed=1`: the options are libFuzzer's. An input that
raises what is no `ServiceError` is written to a file; given as an argument, it is run again.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Final

MISSING: Final = (
    "atheris is not installed, as it has wheels for Python 3.11 to 3.13 on x86-64 Linux only: "
    "the readers were not fuzzed"
)


def main() -> int:
    """Run libFuzzer, which ends the process itself where it is installed."""
    if importlib.util.find_spec("atheris") is None:
        print(MISSING)
        return 0
    import atheris

    with atheris.instrument_imports(include=["service", "model"]):
        from tests.fuzz.target import read_any, seeds
    for seed in seeds():
        read_any(seed)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        atheris.Setup([*sys.argv, *([] if given else [corpus])], read_any)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
