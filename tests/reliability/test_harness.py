"""The scripts notice what they are there to notice."""

from __future__ import annotations

import ast
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

from benchmarks.peers.environment import ROOT
from benchmarks.reliability import __main__ as soak
from benchmarks.reliability import results
from benchmarks.reliability.caller import Answer
from benchmarks.reliability.checks import CHECKS, Check, kept
from benchmarks.reliability.crowd import Crowd, capacity, stream
from benchmarks.reliability.harness import at_least, at_most, broken, equals, raw, told
from benchmarks.reliability.reload import Expected
from benchmarks.reliability.results import SECTIONS, promises_of
from benchmarks.reliability.slow import SlowClients

SCRIPTS = ROOT / "benchmarks" / "reliability"

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """What answers the n-th request of a connection so; none, by closing. Its port."""

    def serve(listener: Any) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: Any) -> None:
        with connection:
            for answer in answers:
                data = b""
                while len(data.partition(b"\r\n\r\n")[2]) < 784:
                    if not (more := connection.recv(65_536)):
                        return
                    data += more
                if not answer:
                    return
                connection.sendall(answer)

    with closing(create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(2)
    thread.join()


@pytest.mark.parametrize(
    ("answers", "failure"),
    [
        ((OK, b""), "RemoteDisconnected"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",), "IncompleteRead"),
        ((LAST.replace(b"200", b"500"),), "500"),
    ],
)
def test_a_request_without_a_complete_2xx_answer_has_failed(
    answers: tuple[bytes, ...], failure: str
) -> None:
    with answering(*answers) as port, Crowd(port, raw(1), clients=2, pause_s=0.01) as crowd:
        time.sleep(0.2)
    assert crowd.failures
    assert all(found.what.startswith(failure) for found in crowd.failures)


def test_connection_close_is_honoured_and_not_a_failure() -> None:
    with answering(OK, LAST) as port, Crowd(port, raw(1), pause_s=0.001) as crowd:
        time.sleep(0.2)
    assert len(crowd.answers) > 5
    assert not crowd.failures


def test_a_connection_that_was_closed_while_it_was_idle_is_not_used_again() -> None:
    with answering(OK) as port, Crowd(port, raw(1), pause_s=0.02) as crowd:
        time.sleep(0.2)
    assert len(crowd.answers) > 3
    assert not crowd.failures


def test_a_connection_that_cannot_be_made_is_no_failed_request() -> None:
    with answering() as port:
        pass
    with Crowd(port, raw(1)) as crowd:
        time.sleep(0.1)
    assert crowd.refused > 1
    assert not crowd.failures


def test_a_stream_counts_its_answers() -> None:
    with answering(*[OK] * 100_000) as port, stream(port, [raw(1)], 2) as statuses:
        time.sleep(0.1)
    assert statuses[200] > 2
    assert statuses.total() == statuses[200]


def test_capacity_counts_answers() -> None:
    with answering(*[OK] * 100_000) as port:
        request = b"POST / HTTP/1.1\r\n\r\n" + bytes(784)
        assert 100 < capacity(port, request, seconds=0.2, connections=2) < 1_000_000


def test_slow_clients_report_which_connections_were_closed_and_how() -> None:
    late = b"HTTP/1.1 408 Request Timeout\r\n\r\n"
    with closing(create_server(("127.0.0.1", 0))) as listener:
        slow = SlowClients(listener.getsockname()[1], 4)
        connections = [listener.accept()[0] for _ in range(4)]
        connections[0].sendall(late)  # the clients take turns: head, body, head, body
        connections[0].close()
        connections[1].close()
        slow.dawdle(0.7)
        assert slow.left == 2
        assert connections[2].recv(100) == b"PO", "a byte at first, and one later"
        assert slow.statuses("head") == {"408": 1, "open": 1}
        assert slow.statuses("body") == {"silence": 1, "open": 1}
        assert 0 <= slow.closed_s("head", 1.0) < 0.7
        slow.close()
        for connection in connections:
            connection.close()


def test_a_promise_is_kept_by_its_figure_alone() -> None:
    assert at_most("", 1.0, 1.0).reached
    assert not at_most("", 1.01, 1.0).reached
    assert not at_most("", math.nan, 1.0).reached
    assert at_least("", 1.0, 1.0).reached
    assert not at_least("", 0.99, 1.0).reached
    assert not at_least("", math.nan, 1.0).reached
    assert not equals("", 1, 0).reached
    figures = told([equals("a", 1, 1), equals("b", 1, 0)], other=3)
    assert [promise["what"] for promise in broken(figures)] == ["b"]
    assert figures["other"] == 3


def test_figures_of_hostile_input_are_promises_too() -> None:
    fuzz = {"inputs": 9000, "failures": [], "resident_mib_start": 200, "resident_mib_end": 210}
    bombs = {"bombs": 30, "worst_extra_mib": 63.0}
    assert all(promise.reached for promise in promises_of("fuzz", fuzz))
    assert not all(p.reached for p in promises_of("fuzz", fuzz | {"failures": ["500"]}))
    assert not all(p.reached for p in promises_of("fuzz", fuzz | {"resident_mib_end": 251}))
    assert promises_of("bombs", bombs)[0].reached
    assert not promises_of("bombs", bombs | {"worst_extra_mib": 64.5})[0].reached


def test_all_scripts_are_there_and_each_belongs_to_a_section() -> None:
    scripts = {path.stem for path in SCRIPTS.glob("*.py") if is_script(path)}
    assert scripts - {"__main__", "results"} == set(results.ORDER)
    assert {check.section for check in CHECKS} <= set(SECTIONS)


def is_script(path: Path) -> bool:
    return '\nif __name__ == "__main__"' in path.read_text() and path.stem != "sick_service"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.what)
def test_the_tests_that_hold_a_promise_exist(check: Check) -> None:
    for name in check.tests:
        path, _, function = name.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = ast.FunctionDef, ast.AsyncFunctionDef
        found = {node.name for node in tree.body if isinstance(node, functions)}
        tests = {each for each in found if each.startswith("test_")}
        assert function in tests if function else tests, name


@pytest.mark.slow
def test_a_promise_whose_tests_fail_is_broken(tmp_path: Path) -> None:
    good, bad = tmp_path / "test_good.py", tmp_path / "test_bad.py"
    good.write_text("def test_a(): pass\ndef test_b(): pass\n")
    bad.write_text("def test_a(): raise ValueError\ndef test_b(): pass\n")
    whole, torn = (kept(Check("Faults", "x", (str(path),))) for path in (good, bad))
    assert (whole.measured, whole.reached) == ("2 passed", True)
    assert not torn.reached


def a_run(command: str, *promises: Any) -> dict[str, Any]:
    machine = {"cores": 2, "cpu": "chip", "memory_GiB": 8, "system": "Linux 1"}
    about = {"command": command, "date": "2030-01-01", "commit": "0123", "hardware": machine}
    return results.stored("x", told(promises, more=1), list(promises), about)


def test_results_are_merged_and_shown_a_line_each(tmp_path: Path) -> None:
    results.write({"soak": a_run("python -m soak", equals("a | b", 1, 0))}, tmp_path)
    found = results.read(tmp_path)
    found["stops"] = a_run("python -m stops", equals("c", 2, 2), equals("d", 3, 3))
    found["checks"] = a_run("checks", equals(CHECKS[0].what, "2 passed", "2 passed"))
    results.write(found, tmp_path)
    assert json.loads((tmp_path / "reliability.json").read_text()) == found
    rows = results.table(found).splitlines()
    assert "| a \\| b | 0 | 1 | **no** | `python -m soak` |" in rows
    stops = rows.index("| c | 2 | 2 | yes | `python -m stops` |")
    assert rows[stops + 1] == "| d | 3 | 3 | yes | the same |"
    check = f"| {CHECKS[0].what} | 2 passed | 2 passed | yes | `{CHECKS[0].command}` |"
    assert rows[stops + 2] == check
    assert rows[stops - 1].startswith("| **Faults** |")
    assert results.table(found) in (tmp_path / "reliability.md").read_text()


def test_a_script_that_fails_keeps_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(soak.ARGUMENTS, "stops", (["--nonsense"], ["--nonsense"]))
    found = soak.run_one("stops", short=True)
    assert [promise["reached"] for promise in found["promises"]] == [False]
    assert found["command"] == "python -m benchmarks.reliability.stops --nonsense"


def test_scores_under_the_name_of_another_version_are_wrong() -> None:
    expected = Expected()
    mine, other = expected.versions.values()
    scores = {version: expected.scores[version][:64].tolist() for version in (mine, other)}

    def wrong(version: str, given: list[float], status: int = 200) -> str | None:
        body = json.dumps({"score": given}).encode()
        return expected.check(Counter(), Answer(status, {"x-model-version": version}, body, 0.0))

    assert wrong(mine, scores[mine]) is None
    assert wrong(other, scores[other]) is None
    assert wrong(mine, scores[other]) is not None
    assert wrong(mine, scores[mine][:32] + scores[other][32:]) is not None, "a mixture"
    assert wrong("another", scores[mine]) is not None
    assert wrong(mine, scores[mine], 503) is not None
