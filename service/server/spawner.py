"""Starts each worker as an interpreter of its own, on systems without a fork server."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from service.server.fork_server import RunWorker
from service.server.processes import spawn


class Spawner:
    """Can be used instead of a `ForkServer`, and is always ready.

    Only Linux can give a forked worker to the supervisor, and macOS's frameworks do not work after
    a fork. The price is that each worker imports torch.
    """

    wait_s: float | None = None
    waits_for: Sequence[socket.socket] = ()
    is_ready = True

    def __init__(self, run_worker: RunWorker) -> None:
        """`run_worker` is pickled for each worker."""
        self._run_worker = run_worker

    def poll(self) -> str | None:
        """Nothing has happened."""
        return None

    def start_worker(self, slot: int, startup_pipe: Connection) -> SpawnProcess | None:
        """Start a worker, to which `startup_pipe` is passed. Raises `OSError`."""
        return spawn(self._run_worker, slot, startup_pipe)

    def close(self) -> None:
        """There is nothing to close."""
