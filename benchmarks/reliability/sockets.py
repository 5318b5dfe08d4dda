"""Which process holds which connection, from /proc."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

ESTABLISHED: Final = "01"


def peers_of(pid: int, port: int) -> set[int]:
    """Ports of peers connected to a process that listens on `port`."""
    sockets = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                sockets.add(str(link.readlink()))
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *rest = line.split()
        if state == ESTABLISHED and int(local.split(":")[1], 16) == port:
            inode = rest[5]
            if f"socket:[{inode}]" in sockets:
                ports.add(int(remote.split(":")[1], 16))
    return ports


def zombies(session: int) -> list[int]:
    """Process ids of the zombies in a session."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
            if state == "Z" and int(of_session) == session:
                pids.append(int(stat.parent.name))
    return pids
