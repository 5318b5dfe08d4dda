"""Workers are forked: what that saves, and what it must not change."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.api.helpers import HANG_S
from tests.processes import Server, check_refused, children, handles, running, wait_until

WORKERS = 2

IMPORT_S = 0.8
"""Less processor time than importing torch takes, and more than the start of a forked worker."""

MAX_OWN_KB = 80_000
"""Memory of a worker that it does not share. One that is not forked has 190,000."""

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

COMMAND = [sys.executable, "-m", "service", "--workers", str(WORKERS), "--port", "0"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a fork server")


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    """Shared: a test that ends a process waits until another one has taken its place."""
    with running("--workers", str(WORKERS)) as server:
        yield server


def workers(server: Server) -> set[int]:
    return children(server.process.pid)


def fork_servers(server: Server) -> set[int]:
    return children(server.process.pid, "vae-fork-server")


def started(server: Server) -> int:
    """How many workers have been ready so far."""
    return server.log.read_text().count("is in memory")


def kill_one(server: Server) -> int:
    """Kill a worker, and wait until another one is ready in its place. Returns that one."""
    before, count = workers(server), started(server)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: started(server) > count)
    (new,) = workers(server) - before
    return new


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def processes() -> Iterator[tuple[int, str, int, int]]:
    """Id, state, parent and session of each process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            yield int(stat.parent.name), state, int(parent), int(session)


def zombies_of(parent: int) -> list[int]:
    return [pid for pid, state, of, _ in processes() if of == parent and state == "Z"]


def in_session(session: int) -> set[int]:
    """The live processes of a session."""
    return {pid for pid, state, _, of in processes() if of == session and state != "Z"}


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE)))


def answers(server: Server, **headers: str) -> list[httpx.Response]:
    """Answers over connections of their own, so that each worker gives some of them."""
    found = []
    for _ in range(40):
        with server.client() as client:
            found.append(client.get("/livez", headers=headers))
    assert {answer.status_code for answer in found} == {200}
    return found


def test_a_killed_worker_is_replaced_without_importing_torch_again(service: Server) -> None:
    (fork_server,) = fork_servers(service)
    new = kill_one(service)
    assert cpu_s(new) < IMPORT_S
    assert fork_servers(service) == {fork_server}
    answers(service)


def test_workers_that_die_at_once_are_all_replaced(service: Server) -> None:
    before, count = workers(service), started(service)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: started(service) == count + WORKERS)
    assert not workers(service) & before
    answers(service)


def test_workers_share_most_of_their_memory(service: Server) -> None:
    for pid in workers(service):
        assert own_kb(pid) < MAX_OWN_KB


def test_workers_do_not_share_random_numbers(service: Server) -> None:
    found = answers(service, traceparent=TRACEPARENT)
    for header in ("x-request-id", "traceparent"):
        assert len({answer.headers[header] for answer in found}) == len(found), header


def test_the_fork_server_has_one_thread(service: Server) -> None:
    (pid,) = fork_servers(service)
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def test_a_reload_by_request_reaches_all_workers(service: Server) -> None:
    loaded = service.log.read_text().count("was loaded")
    with service.client() as client:
        assert client.post("/model/reload").status_code == 200
    # The worker that was asked loads it twice.
    wait_until(lambda: service.log.read_text().count("was loaded") == loaded + 1 + WORKERS)


def test_killing_the_fork_server_leaves_the_workers_and_another_one_is_started(
    service: Server,
) -> None:
    before = workers(service)
    (fork_server,) = fork_servers(service)
    os.kill(fork_server, signal.SIGKILL)
    wait_until(lambda: bool(fork_servers(service) - {fork_server}))
    assert "the fork server died (exit code -9)" in service.log.read_text()
    assert workers(service) == before
    answers(service)
    kill_one(service)
    assert zombies_of(service.process.pid) == []


def test_a_worker_that_dies_without_a_fork_server_is_replaced_later(service: Server) -> None:
    (fork_server,) = fork_servers(service)
    os.kill(fork_server, signal.SIGKILL)
    kill_one(service)
    assert len(fork_servers(service)) == 1
    answers(service)


def test_killing_the_parent_ends_the_fork_server_too(start_server: Callable[..., Server]) -> None:
    server = start_server("--workers", str(WORKERS))
    pids = workers(server) | fork_servers(server)
    assert len(pids) == WORKERS + 1
    server.process.kill()
    server.process.wait(HANG_S)
    wait_until(lambda: not any(map(exists, pids)))


def test_a_stop_ends_the_fork_server(start_server: Callable[..., Server]) -> None:
    server = start_server("--workers", str(WORKERS))
    (fork_server,) = fork_servers(server)
    server.process.terminate()
    assert server.process.wait(HANG_S) == 0
    assert not exists(fork_server)


@pytest.mark.parametrize("moment_s", [0.0, 0.1, 0.3, 1.0, None])
def test_ctrl_c_ends_everything_quietly(moment_s: float | None) -> None:
    """A terminal sends it to all processes: while they start, and, for None, once all are ready."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        COMMAND, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr
    if moment_s is None:
        assert any("running on" in line for line in process.stderr)
    else:
        wait_until(lambda: handles(process.pid, signal.SIGINT) and len(in_session(process.pid)) > 1)
        time.sleep(moment_s)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 0
    assert "Traceback" not in errors
    wait_until(lambda: not in_session(process.pid))


@pytest.mark.parametrize("moment_s", [0.0, 0.3, 1.0])
def test_killing_the_parent_during_startup_leaves_nothing(moment_s: float) -> None:
    process = subprocess.Popen(  # noqa: S603 - our own command
        COMMAND, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: len(in_session(process.pid)) > 1)
    time.sleep(moment_s)
    process.kill()
    process.wait(HANG_S)
    wait_until(lambda: not in_session(process.pid))


def test_a_fork_server_that_cannot_start_ends_the_service(tmp_path: Path) -> None:
    """The fork server imports the main module again, as all spawned processes do."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "if __name__ != '__main__':\n"
        "    sys.exit(3)\n"
        "from service.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(script), *COMMAND[3:]],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, timeout=HANG_S,
    )  # fmt: skip
    check_refused(done.returncode, done.stderr, "the fork server could not start", "3")


def test_without_a_fork_server_workers_are_spawned(tmp_path: Path) -> None:
    """As on macOS: started, replaced and stopped all the same."""
    code = (
        "import sys\n"
        "from service.server import supervisor\n"
        "supervisor.adopt_orphans = lambda: False\n"
        "from service.__main__ import main\n"
        "sys.exit(main())\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-c", code, *COMMAND[3:]], stderr=stderr
        )
    try:
        wait_until(lambda: "running on" in log.read_text())
        server = Server(log.read_text().split("running on ")[1].split()[0], process, log)
        assert fork_servers(server) == set()
        assert cpu_s(kill_one(server)) > IMPORT_S
        answers(server)
        process.terminate()
        assert process.wait(HANG_S) == 0
    finally:
        process.kill()
        process.wait(HANG_S)
