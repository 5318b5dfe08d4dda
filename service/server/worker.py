"""One worker process, from its start to its end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from service.access.keys import KeysError
from service.access.rates import Buckets
from service.server.processes import HELD_SIGNALS, end_with_parent, set_name
from service.settings import Settings
from service.telemetry.metrics_files import SharedCounts
from service.telemetry.request_log import set_up_logging


@dataclass(frozen=True)
class Worker:
    """What all workers of a service have in common. Pickling passes it to another process."""

    settings: Settings
    listeners: Sequence[socket.socket]
    """A listening socket for each slot."""
    counts: SharedCounts | None
    buckets: Buckets | None

    def run(self, slot: int, startup_pipe: Connection) -> None:
        """Serve the slot's socket, in a process of its own whose `HELD_SIGNALS` are blocked.

        The startup message is None when the worker is ready, or why it cannot start.
        """
        if not end_with_parent(signal.SIGTERM):
            return
        set_name("vae-worker")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
        listener = self.listeners[slot]
        for other in self.listeners:
            # While one is open, the kernel queues connections, even when nobody accepts them.
            if other is not listener:
                other.close()
        set_up_logging(self.settings.log_level, self.settings.log_format)
        if self.counts:
            self.counts.join(slot)
        # Imported here because the supervisor, which starts workers, does not need torch.
        from model.bundle.checks import BundleError
        from model.engine.device import DeviceError
        from service.server.server import serve

        try:
            serve(self.settings, listener, lambda: startup_pipe.send(None), self.buckets)
        except (BundleError, DeviceError, KeysError) as error:
            startup_pipe.send(str(error))
