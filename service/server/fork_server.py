"""The fork server: a process that has imported all that a worker needs, and forks workers.

Importing torch takes more than a second; forking a process that has done so takes milliseconds. The
fork server computes nothing and leaves CUDA alone. So its only other threads, numpy's for matrix
products, are idle and hold no lock that would be copied, and workers can still use a GPU.

::

    supervisor ── spawns ──▶ fork server ── forks ──▶ parent ── forks ──▶ worker
         └───────────── adopts the worker, as its parent ends at once ──────┘

Workers are thus children of the supervisor, as if it had started them itself. It receives their
exit statuses, they end with it, and none of them notices if the fork server dies. In that case the
supervisor starts another one. Workers that die meanwhile are replaced as soon as it is ready.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from service.server.preload import preload
from service.server.processes import ForkedProcess, end_with_parent, set_name, spawn
from service.server.restarts import Restarts

log = logging.getLogger("service")

MESSAGE: Final = struct.Struct("=q")
"""To the fork server: the slot of a worker to fork. From it: `READY`, then for each fork the id of
the worker's process, or the negative errno if it failed."""

READY: Final = 0

REPLY_TIMEOUT_S: Final = 5.0
"""How long a fork may take. It takes milliseconds, unless the fork server hangs."""

POLL_INTERVAL_S: Final = 0.001
"""How often a worker checks whether it has been adopted."""

RunWorker = Callable[[int, Connection], None]
"""Runs the worker of a slot. The connection takes its startup message."""


class ForkServer:
    """The supervisor's side: keeps a fork server running, and has it fork workers."""

    def __init__(self, run_worker: RunWorker) -> None:
        """`run_worker` is pickled for the fork server."""
        self._run_worker = run_worker
        self._process: SpawnProcess | None = None
        """None until it is started, and after it has died."""
        self._channel: socket.socket | None = None
        """The connection to the process. None if there is none."""
        self._restarts = Restarts()
        self.is_ready = False
        """Whether workers can be started."""

    @property
    def wait_s(self) -> float | None:
        """Seconds until `poll` has to start a process; None if it does not."""
        return None if self._process else self._restarts.wait_s

    @property
    def waits_for(self) -> list[socket.socket]:
        """What becomes readable when `poll` has something to read."""
        return [self._channel] if self._channel and not self.is_ready else []

    def poll(self) -> str | None:
        """Start the fork server if that is due, and note whether it is ready or has died.

        Returns why it could not start, or None.
        """
        if self._process is None:
            if not self._restarts.wait_s:
                return self._start()
        elif not self._process.is_alive():
            return self._on_exit(self._process)
        elif connection.wait(self.waits_for, 0):
            if self._receive() == READY:
                self.is_ready = True
                self._restarts.on_ready()
            else:
                self._close_channel()  # it is about to end
        return None

    def start_worker(self, slot: int, startup_pipe: Connection) -> ForkedProcess | None:
        """Fork a worker, to which `startup_pipe` is passed. Call it only if this is ready.

        Returns None if the fork server has died or hangs; `poll` will start another one. Raises
        `OSError` if the system cannot fork.
        """
        assert self._process is not None  # noqa: S101 - for mypy: it is ready
        assert self._channel is not None  # noqa: S101 - likewise
        reply = None
        with suppress(OSError):  # it has died, or the time is up
            socket.send_fds(self._channel, [MESSAGE.pack(slot)], [startup_pipe.fileno()])
            reply = self._receive()
        if reply is None:
            self._process.kill()
            self._process.join()
            self._on_exit(self._process)
            return None
        if reply < 0:
            raise OSError(-reply, os.strerror(-reply))
        return ForkedProcess(reply)

    def close(self) -> None:
        """End the fork server, which has nothing to lose. Workers stay."""
        if self._process:
            self._process.kill()
            self._process.join()
        self._close_channel()

    def _start(self) -> str | None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = spawn(run_fork_server, theirs, self._run_worker)
        except OSError as error:
            self._restarts.on_exit(was_ready=False)
            return f"the system cannot start a process: {error}"
        ours.settimeout(REPLY_TIMEOUT_S)
        self._channel = ours
        return None

    def _receive(self) -> int | None:
        """The next message, or None at the end of the connection. Raises `OSError`."""
        assert self._channel is not None  # noqa: S101 - for mypy: there is a process
        message = self._channel.recv(MESSAGE.size)
        return MESSAGE.unpack(message)[0] if message else None

    def _on_exit(self, process: SpawnProcess) -> str | None:
        reason = None
        if self.is_ready:
            log.error(
                "the fork server died (exit code %d): until another one is ready, workers that die "
                "are not replaced",
                process.exitcode or 0,
            )
        else:
            reason = f"the fork server could not start (exit code {process.exitcode})"
        self._restarts.on_exit(was_ready=self.is_ready)
        self._close_channel()
        self._process, self.is_ready = None, False
        return reason

    def _close_channel(self) -> None:
        if self._channel:
            self._channel.close()
        self._channel = None


def run_fork_server(channel: socket.socket, run_worker: RunWorker) -> None:
    """The main function of the fork server. A worker that it forks returns from it, too."""
    set_name("vae-fork-server")
    if not end_with_parent(signal.SIGKILL):
        return
    preload()
    channel.sendall(MESSAGE.pack(READY))
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE.size, 1)
        if not message:
            return  # the supervisor has ended
        startup_pipe = Connection(descriptors[0], readable=False)
        if _fork(channel):
            channel.close()
            (slot,) = MESSAGE.unpack(message)
            run_worker(slot, startup_pipe)
            return
        startup_pipe.close()


def _fork(channel: socket.socket) -> bool:
    """Fork a worker that the supervisor adopts, and report it. Returns whether this is it."""
    try:
        parent = os.fork()
    except OSError as error:
        channel.sendall(_failure(error))
        return False
    if parent:
        os.waitpid(parent, 0)
        return False
    parent = os.getpid()
    try:
        worker = os.fork()
        reply = MESSAGE.pack(worker)
    except OSError as error:
        worker, reply = -1, _failure(error)
    if worker:
        try:
            channel.sendall(reply)
        finally:
            os._exit(0)
    while os.getppid() == parent:
        time.sleep(POLL_INTERVAL_S)
    return True


def _failure(error: OSError) -> bytes:
    """The message about a fork that failed."""
    return MESSAGE.pack(-(error.errno or errno.EAGAIN))
