"""Starting the service from a test."""

from __future__ import annotations

import subprocess
import sys

import pytest

RESTORED = "from tests.processes import restore_interrupts; restore_interrupts()"
CHILD = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


@pytest.mark.parametrize(("first", "heard"), [("", "False"), (RESTORED, "True")])
def test_a_child_hears_an_interrupt_that_the_shell_ignores(first: str, heard: str) -> None:
    code = f"{first}\nimport subprocess, sys\nsubprocess.run([sys.executable, '-c', {CHILD!r}])"
    done = subprocess.run(  # noqa: S603 - our own code
        ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"{heard}\n"
