"""The service as a process of its own, and what the kernel says of its memory."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 30

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Running:
    """A service that is ready, on this machine."""

    host: str
    port: int
    pid: int

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=START_TIMEOUT_S)

    def is_alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists() and self._status("State") not in ("Z", "X")

    def resident_mib(self) -> float:
        """Memory that it holds now."""
        return int(self._status("VmRSS")) * 1024 / MIB

    def peak_mib(self) -> float:
        """The most that it has held since `forget_peak`."""
        return int(self._status("VmHWM")) * 1024 / MIB

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> str:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s*(\S+)", text, re.MULTILINE)
        assert found, f"no {name} in {text}"
        return found[1]


@contextmanager
def running(*flags: str) -> Iterator[Running]:
    """`python -m service` on a free port, until the end of the block."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "service", "--port", "0", *flags]
        process = subprocess.Popen(command, stderr=log)  # noqa: S603 - our own command
        try:
            host, port = _address(process, log.fileno())
            yield Running(host, port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: int) -> tuple[str, int]:
    deadline = time.monotonic() + START_TIMEOUT_S
    text = ""
    while time.monotonic() < deadline and process.poll() is None:
        text = Path(f"/proc/self/fd/{log}").read_text()
        if found := re.search(r"running on http://([\d.]+):(\d+)", text):
            return found[1], int(found[2])
        time.sleep(0.02)
    raise AssertionError(f"the service did not start: {text}")
