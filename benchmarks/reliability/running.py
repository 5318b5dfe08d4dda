"""A running service, and its memory as the kernel reports it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

CLIENT_TIMEOUT_S: Final = 60

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Running:
    """A service on this machine that is ready."""

    host: str
    port: int
    pid: int

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=CLIENT_TIMEOUT_S)

    def is_alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists() and self._status("State") not in ("Z", "X")

    def resident_mib(self) -> float:
        """Memory in use now."""
        return int(self._status("VmRSS")) * 1024 / MIB

    def peak_mib(self) -> float:
        """Peak memory since `forget_peak`."""
        return int(self._status("VmHWM")) * 1024 / MIB

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> str:
        text = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(rf"^{name}:\s*(\S+)", text, re.MULTILINE)
        assert match, f"no {name} in {text}"
        return match[1]
