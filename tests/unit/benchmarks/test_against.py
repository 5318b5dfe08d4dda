"""The comparison with another commit: what it computes, prints, and leaves behind (nothing)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import against, checkout, load
from benchmarks.against import (
    ASGI,
    FASTAPI,
    LOADS,
    PHOTOGRAPH_LOADS,
    TREE,
    Contender,
    Figures,
    cleaning_up,
    history_table,
    line,
    measure_rounds,
    ratios,
    rows,
    table,
    two_cores,
)
from benchmarks.checkout import CheckoutError
from benchmarks.machine import pinned
from benchmarks.peers.environment import ROOT
from benchmarks.peers.table import SERVERS
from benchmarks.workloads import ONE

REF = "36f2c30"
KEYS = [row.key for row in rows(LOADS)]
ONE_IMAGE_KEYS = [key for key in KEYS if key.startswith(ONE)]
LESS_IS_BETTER = {row.key for row in rows(LOADS) if row.less_is_better}


def figures(speed: float, keys: Sequence[str] = KEYS) -> Figures:
    """Those of a server that is so many times as good as one with all figures at 100."""
    return {key: 100 / speed if key in LESS_IS_BETTER else 100 * speed for key in keys}


def some_rounds() -> list[dict[str, Figures]]:
    return [
        {
            REF: figures(1),
            TREE: figures(speed),
            FASTAPI: figures(2, ONE_IMAGE_KEYS),
            ASGI: figures(4, ONE_IMAGE_KEYS),
        }
        for speed in (1.2, 0.9, 1.0)
    ]


def test_a_ratio_of_one_or_more_is_as_good_whether_more_or_less_is_better() -> None:
    assert {KEYS[1], "ready_s", "memory"} == LESS_IS_BETTER
    for row in rows(LOADS):
        assert row.ratio(figures(1.5), figures(1)) == pytest.approx(1.5)


def test_ratios_are_of_the_same_round_and_rounds_without_a_figure_are_left_out() -> None:
    row = next(rows(LOADS))
    rounds: list[dict[str, Figures]] = [
        {TREE: {row.key: 2}, REF: {row.key: 1}},
        {TREE: {row.key: 30}, REF: {row.key: 10}},
        {TREE: {row.key: 5}, REF: {}},
        {TREE: {row.key: 5}},
    ]
    assert ratios(rounds, row, TREE, REF) == [2, 3]


def test_the_line_has_every_row_with_its_spread() -> None:
    same = "1.00 (0.90–1.20)"
    assert line(some_rounds(), LOADS, REF, log=True) == (
        f"against 36f2c30: JSON×1 c1 {same}, p50 {same}, c32 {same}, JSON×64 {same}, "
        f"raw×256 {same}, PNG×1 {same}, ready {same}, memory {same}; "
        "FastAPI × 0.50 (0.45–0.60), bare ASGI × 0.25 (0.23–0.30)"
    )
    assert line(some_rounds(), LOADS, REF, log=False).startswith(
        "against 36f2c30, request log off: JSON×1 c1 1.00"
    )


def test_photographs_are_compared_without_fixed_answers() -> None:
    keys = [row.key for row in rows(PHOTOGRAPH_LOADS)]
    less = {row.key for row in rows(PHOTOGRAPH_LOADS) if row.less_is_better}
    slower = {key: 2.0 if key in less else 1.0 for key in keys}
    rounds: list[dict[str, Figures]] = [{REF: slower, TREE: dict.fromkeys(keys, 1.0)}]
    assert line(rounds, PHOTOGRAPH_LOADS, REF, log=True) == (
        "against 36f2c30: PNG c1 1.00, p50 2.00, PNG c4 1.00, JPEG 1 MP c1 1.00, p50 2.00, "
        "JPEG 1 MP c4 1.00, JPEG 12 MP c1 1.00, p50 2.00, JPEG 12 MP c4 1.00, ready 2.00, "
        "memory 2.00"
    )
    assert len(table(rounds, PHOTOGRAPH_LOADS, REF).splitlines()) == 2 + len(keys)


def test_the_service_of_a_checkout_gets_the_bundle_and_is_checked_with_its_photographs() -> None:
    plain = against.service("a", ROOT, {}, log=True)
    assert (plain.server.flags, plain.check) == ((), None)
    with_network = against.service("a", ROOT, {}, log=False, bundle=Path("runs/x"))
    assert with_network.server.flags == ("--log-level", "warning", "--bundle", "runs/x")
    assert with_network.check is not None


def test_a_history_has_no_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        against.main(["--history", "a..b", "--photographs", "conv"])
    assert "--photographs compares with one commit" in capsys.readouterr().err


def test_the_table_has_fixed_answers_in_one_image_rows_only() -> None:
    heading, _, *body = table(some_rounds(), LOADS, REF).splitlines()
    assert heading == (
        "|  | 36f2c30 | working tree | working tree against 36f2c30 | against FastAPI "
        "| against bare ASGI |"
    )
    assert body[2] == (
        "| 1 image, JSON, 32 connections: requests/s | 100 (100–100) | 100 (90–120) "
        "| 1.00 (0.90–1.20) | 0.50 (0.45–0.60) | 0.25 (0.23–0.30) |"
    )
    assert body[3] == (
        "| 64 images, JSON, 8 connections: requests/s | 100 (100–100) | 100 (90–120) "
        "| 1.00 (0.90–1.20) |  |  |"
    )
    assert len(body) == len(KEYS)


def test_the_order_of_servers_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def measure(contender: Contender, *_: Any) -> dict[str, float]:
        started.append(contender.name)
        return {"ready_s": float(len(started))}

    monkeypatch.setattr(against, "measure", measure)
    contenders = [Contender(name=name, server=SERVERS["ours"], workloads={}) for name in "abc"]
    results = measure_rounds(contenders, LOADS, 3, 0)
    assert "".join(started) == "abccbaabc"
    assert [figures["a"] for figures in results] == [{"ready_s": 1}, {"ready_s": 6}, {"ready_s": 7}]


def test_a_history_is_relative_to_fastapi_and_to_the_first_commit() -> None:
    def measured(name: str, speed: float) -> list[dict[str, Figures]]:
        return [{name: figures(speed), FASTAPI: figures(2)}]

    commits = [("aaa", "The first"), ("bbb", "Broken"), ("ccc", "Slower")]
    lines = history_table(
        commits, {"aaa": measured("aaa", 3), "bbb": "it ended", "ccc": measured("ccc", 1.5)}
    ).splitlines()
    assert lines[0].startswith(
        "| commit | 1 image, JSON, 1 connection, × FastAPI | 1 image, JSON, 1 connection, × aaa |"
    )
    assert lines[2:] == [
        f"| aaa | {' | '.join(['1.50', '1.00'] * 3)} | The first |",
        f"| bbb | {' | '.join(['–'] * 6)} | Broken; not measured: it ended |",
        f"| ccc | {' | '.join(['0.75', '0.50'] * 3)} | Slower |",
    ]
    assert {text.count("|") for text in lines} == {9}


def test_a_history_measures_every_nth_commit_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def checked_out(name: str) -> Iterator[Path]:
        if name == "c3":
            raise CheckoutError("an extension cannot be built")
        yield Path(name)

    def rounds_of(contenders: Sequence[Contender], *_: Any) -> list[dict[str, Figures]]:
        assert contenders[1].root == Path(contenders[1].name)
        return [{contender.name: figures(1) for contender in contenders}]

    commits = [(f"c{number}", "") for number in range(6)]
    monkeypatch.setattr(against, "commits_between", lambda span: commits)
    monkeypatch.setattr(against, "service_workloads", dict)
    monkeypatch.setattr(against, "checkout", checked_out)
    monkeypatch.setattr(against, "measure_rounds", rounds_of)
    lines = against.history("c0..c5", 3, 1, 0, log=True).splitlines()[2:]
    assert [text.split(" ")[1] for text in lines] == ["c0", "c3", "c5"]
    assert "not measured: an extension cannot be built" in lines[1]


def test_server_and_generator_have_a_core_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 2, 3})
    assert two_cores() == (2, 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    with pytest.raises(SystemExit, match=r"^error: two cores are needed.*may use core 3 only$"):
        two_cores()


def test_what_is_started_while_pinned_has_those_cores_alone() -> None:
    before = os.sched_getaffinity(0)
    code = "import os; print(*os.sched_getaffinity(0))"
    with pinned({min(before)}):
        shown = subprocess.check_output([sys.executable, "-c", code], text=True)  # noqa: S603
    assert shown.split() == [str(min(before))]
    assert os.sched_getaffinity(0) == before


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository of three commits, in place of this one."""
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "EMAIL"):
        monkeypatch.setenv(name, "someone@example.org")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '1'\n")
    git("init", "--quiet", "--initial-branch", "main")
    git("add", ".")
    for subject in ("The first", "The second", "The third"):
        git("commit", "--quiet", "--allow-empty", "--message", subject)
    return tmp_path


git = checkout.git


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_the_worktree_is_removed_in_any_case(
    error: type[BaseException] | None, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []
    monkeypatch.setattr(checkout, "build", built.append)
    try:
        with checkout.checkout("main~1") as root:
            assert (root / "pyproject.toml").exists()
            assert str(root) in git("worktree", "list")
            if error:
                raise error
    except (ZeroDivisionError, KeyboardInterrupt):
        assert error
    assert built == [root]
    assert not root.exists()
    assert git("worktree", "list").splitlines() == [git("worktree", "list").strip()]


def test_refs_that_do_not_exist_are_refused_by_name(repository: Path) -> None:
    with pytest.raises(CheckoutError, match="there is no commit nonsense"):
        checkout.commit_of("nonsense")
    with pytest.raises(CheckoutError, match="'main' is no range of commits"):
        checkout.commits_between("main")


def test_a_range_includes_its_first_commit(repository: Path) -> None:
    commits = checkout.commits_between("main~2..main")
    assert [subject for _, subject in commits] == ["The first", "The second", "The third"]
    assert [name for name, _ in commits] == [
        checkout.commit_of(ref) for ref in ("main~2", "main~1", "main")
    ]


def project_with(directory: Path, source: str) -> Path:
    """A project with an optional C extension; returns the path of its source."""
    path = directory / "extension.c"
    path.write_text(source)
    (directory / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\n[tool.setuptools]\npy-modules = []\n'
        '[[tool.setuptools.ext-modules]]\nname = "extension"\nsources = ["extension.c"]\n'
        "optional = true\n"
    )
    return path


def test_an_extension_that_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    """Although it is optional, which to setuptools makes it a warning."""
    project_with(tmp_path, "#error this is broken\n")
    with pytest.raises(CheckoutError, match=r"^extension of .* cannot be built: "):
        checkout.build(tmp_path)


def test_extensions_are_built_again_only_when_their_sources_change(tmp_path: Path) -> None:
    source = project_with(tmp_path, "int answer = 42;\n")
    checkout.build(tmp_path)
    (built,) = tmp_path.glob("extension.*.so")
    before = built.stat().st_ino, built.stat().st_mtime_ns
    checkout.build(tmp_path)
    assert (built.stat().st_ino, built.stat().st_mtime_ns) == before
    os.utime(source, (time.time() + 10, time.time() + 10))
    checkout.build(tmp_path)
    assert (built.stat().st_ino, built.stat().st_mtime_ns) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [built.name, "extension.c", "pyproject.toml"]
    )


def test_a_signal_is_an_exception_once() -> None:
    cleaned_up = []

    def interrupted_twice() -> None:
        with cleaning_up():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGINT)  # must not interrupt this
                time.sleep(0.05)
                cleaned_up.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_:
        interrupted_twice()
    assert exit_.value.code == 128 + signal.SIGTERM
    assert cleaned_up
    assert signal.getsignal(signal.SIGTERM) == before


needs_all = pytest.mark.skipif(
    not shutil.which("wrk") or not (ROOT / ".git").exists() or len(os.sched_getaffinity(0)) < 2,
    reason="needs wrk, a git checkout and two cores",
)


@needs_all
def test_an_interrupt_leaves_neither_processes_nor_a_worktree() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.against", "HEAD", "--rounds", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        server = wait_for_server(process.pid)
        root = Path(f"/proc/{server}/cwd").readlink()
        assert str(root) in git("worktree", "list")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGINT, output
    assert not Path(f"/proc/{server}").exists()
    assert not root.exists()
    assert str(root) not in git("worktree", "list")


def wait_for_server(parent: int) -> int:
    """The id of the service that a process has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for child in map(int, children.read_text().split()):
            if b"\0service\0--port\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.05)
    raise AssertionError("no server was started")


@needs_all
def test_the_working_tree_can_be_compared_with_head(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(against, "LOADS", (LOADS[0], LOADS[1]))
    assert against.main(["HEAD", "--rounds", "1", "--no-log"]) == 0
    output = capsys.readouterr().out.splitlines()
    name = checkout.commit_of("HEAD")
    assert output[2].startswith(f"|  | {name} | working tree |")
    assert "–" not in output[-1], "every row was measured"
    assert output[-1].startswith(f"against {name}, request log off: JSON×1 c1 ")
    assert [part.split(" ")[0] for part in output[-1].split(", ")[2:5]] == ["p50", "c32", "ready"]


def test_without_wrk_it_says_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="wrk is not installed"):
        against.main(["HEAD"])
    with pytest.raises(SystemExit, match="wrk is not installed"):
        load.wrk()
