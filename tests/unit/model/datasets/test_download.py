"""Downloads from a loopback server that misbehaves on request."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from model.datasets import download as module
from model.datasets.download import DataSet, DownloadError, RemoteFile, download

CONTENT = {
    "images.gz": gzip.compress(bytes(range(256)) * 40, mtime=0) + bytes(10_000),
    "labels.gz": gzip.compress(b"0123456789", mtime=0),
}
IMAGES, LABELS = CONTENT.values()
WRONG = bytes(len(IMAGES))
SHORT_SILENCE_S = 0.2
LONGEST_STALL_S = 5.0


@dataclass(frozen=True)
class Reply:
    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None  # as claimed; the body's own if None
    stall: bool = False  # go silent after the body, connection open


@dataclass
class Mirror:
    """Gives each path its replies in turn, the last one again and again."""

    url: str = ""
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    request_headers: list[dict[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def serve(self, path: str, *replies: Reply) -> None:
        self.replies[path] = list(replies)

    def reply(self, path: str) -> Reply:
        replies = self.replies.get(path, [Reply(status=404)])
        return replies.pop(0) if len(replies) > 1 else replies[0]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    state = Mirror()

    class Handler(BaseHTTPRequestHandler):
        timeout = LONGEST_STALL_S

        def do_GET(self) -> None:
            state.requests.append(self.path)
            state.request_headers.append({k.lower(): v for k, v in self.headers.items()})
            reply = state.reply(self.path)
            self.send_response(reply.status)
            for header in reply.headers:
                self.send_header(*header)
            if reply.length != -1:
                length = len(reply.body) if reply.length is None else reply.length
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.stall:
                self.wfile.flush()
                state.closing.wait(LONGEST_STALL_S)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that server_close() waits for all of them

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/"
    for name, body in CONTENT.items():
        state.serve(f"/{name}", Reply(body))
    files = tuple(RemoteFile(n, len(b), hashlib.sha256(b).hexdigest()) for n, b in CONTENT.items())
    monkeypatch.setattr(module, "DATA_SETS", {"tiny": DataSet((state.url,), files)})
    monkeypatch.setenv("no_proxy", "*")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, noted and not slept."""
    seconds: list[float] = []
    monkeypatch.setattr(module, "sleep", seconds.append)
    return seconds


def fetch(
    directory: Path,
    mirrors: list[str] | None = None,
    attempts: int = 2,
    timeout_s: float = LONGEST_STALL_S,
) -> str:
    """Download the tiny data set; what a console that is no terminal shows of it."""
    shown = io.StringIO()
    paths = download(
        "tiny",
        directory,
        mirrors=mirrors,
        attempts=attempts,
        timeout_s=timeout_s,
        console=Console(file=shown, force_terminal=False),
    )
    assert paths == [directory / name for name in CONTENT]
    assert contents(directory) == CONTENT
    return shown.getvalue()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_new_directory_gets_every_file(mirror: Mirror, tmp_path: Path) -> None:
    shown = fetch(tmp_path / "new" / "data")
    assert mirror.requests == ["/images.gz", "/labels.gz"]
    assert [line for line in shown.splitlines() if line] == [
        f"images.gz: {len(IMAGES):,} bytes, downloaded",
        f"labels.gz: {len(LABELS):,} bytes, downloaded",
    ]


def test_files_follow_the_umask(mirror: Mirror, tmp_path: Path) -> None:
    fetch(tmp_path)
    (tmp_path / "ordinary").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {
        (tmp_path / "ordinary").stat().st_mode
    }


def test_a_terminal_sees_a_bar_over_all_bytes(mirror: Mirror, tmp_path: Path) -> None:
    mirror.serve("/images.gz", Reply(WRONG), Reply(IMAGES))
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, force_interactive=True, width=120)
    download("tiny", tmp_path, console=console)
    total = f"{(len(IMAGES) + len(LABELS)) / 1000:.1f}"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert "━" in text
    assert f"{total}/{total} kB" in text  # the failed attempt's bytes do not count
    assert f"images.gz: {len(IMAGES):,} bytes, downloaded" in text


def test_a_log_has_a_line_now_and_then(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_S", 0.0)
    lines = fetch(tmp_path).splitlines()
    assert f"images.gz: {len(IMAGES):,} bytes, {len(IMAGES):,} downloaded so far" in lines
    assert f"images.gz: {len(IMAGES):,} bytes, downloaded" in lines


def test_right_files_are_not_asked_for_again(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "images.gz").write_bytes(IMAGES)
    shown = fetch(tmp_path)
    assert mirror.requests == ["/labels.gz"]
    assert f"images.gz: {len(IMAGES):,} bytes, already there\n" in shown
    fetch(tmp_path)
    assert mirror.requests == ["/labels.gz"]


def test_a_wrong_file_is_replaced(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "images.gz").write_bytes(WRONG)
    fetch(tmp_path)
    assert mirror.requests == ["/images.gz", "/labels.gz"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Reply(status=500), id="500"),
        pytest.param(Reply(status=429), id="429"),
        pytest.param(Reply(IMAGES, status=203), id="200-is-the-only-success"),
        pytest.param(Reply(WRONG), id="wrong-bytes"),
        pytest.param(Reply(IMAGES[:-1]), id="short"),
        pytest.param(Reply(IMAGES[:99], length=len(IMAGES)), id="closed-midway"),
        pytest.param(Reply(IMAGES + b"\0"), id="long"),
    ],
)
def test_a_failed_attempt_is_made_again(fault: Reply, mirror: Mirror, tmp_path: Path) -> None:
    mirror.serve("/images.gz", fault, Reply(IMAGES))
    fetch(tmp_path)
    assert mirror.requests == ["/images.gz", "/images.gz", "/labels.gz"]


def test_mirrors_take_turns_and_pauses_double(
    mirror: Mirror, tmp_path: Path, pauses: list[float]
) -> None:
    mirror.serve("/b/images.gz", Reply(status=503), Reply(IMAGES))
    mirror.serve("/a/labels.gz", Reply(LABELS))
    fetch(tmp_path, mirrors=[f"{mirror.url}a", f"{mirror.url}b/"], attempts=4)
    images = ["/a/images.gz", "/b/images.gz", "/a/images.gz", "/b/images.gz"]
    assert mirror.requests == [*images, "/a/labels.gz"]
    assert pauses == [1.0, 2.0, 4.0]


def test_redirects_are_followed(mirror: Mirror, tmp_path: Path) -> None:
    mirror.serve("/images.gz", Reply(status=302, headers=(("Location", "/moved/images.gz"),)))
    mirror.serve("/moved/images.gz", Reply(IMAGES))
    fetch(tmp_path)
    assert mirror.requests == ["/images.gz", "/moved/images.gz", "/labels.gz"]


def test_the_gz_is_stored_as_it_is(mirror: Mirror, tmp_path: Path) -> None:
    """Some servers label a .gz as gzip-coded content, which a client would gladly unpack."""
    mirror.serve("/labels.gz", Reply(LABELS, headers=(("Content-Encoding", "gzip"),)))
    fetch(tmp_path)
    assert {headers["accept-encoding"] for headers in mirror.request_headers} == {"identity"}


FAULTS = [
    pytest.param(Reply(status=404), "HTTP status 404", id="404"),
    pytest.param(Reply(status=500), "HTTP status 500", id="500"),
    pytest.param(
        Reply(WRONG),
        f"sha256 is {hashlib.sha256(WRONG).hexdigest()[:12]}…, "
        f"expected {hashlib.sha256(IMAGES).hexdigest()[:12]}…",
        id="wrong-bytes",
    ),
    pytest.param(
        Reply(IMAGES[:1024], length=-1),
        f"1,024 bytes arrived, expected {len(IMAGES):,}",
        id="short",
    ),
    pytest.param(
        Reply(IMAGES[:1024], length=len(IMAGES)),
        "RemoteProtocolError: peer closed connection",
        id="closed-midway",
    ),
    pytest.param(
        Reply(IMAGES + b"\0", length=10**12, stall=True),  # whoever reads on waits
        f"more than the expected {len(IMAGES):,} bytes arrived",
        id="long",
    ),
    pytest.param(
        Reply(status=302, headers=(("Location", "/images.gz"),)),
        "TooManyRedirects: ",
        id="redirect-loop",
    ),
]


@pytest.mark.parametrize("before", [None, WRONG], ids=["absent", "present"])
@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_after_the_last_attempt_nothing_has_changed(
    fault: Reply, reason: str, before: bytes | None, mirror: Mirror, tmp_path: Path
) -> None:
    if before is not None:
        (tmp_path / "images.gz").write_bytes(before)
    mirror.serve("/images.gz", fault)
    with pytest.raises(DownloadError) as raised:
        fetch(tmp_path)
    heading, *tries = str(raised.value).splitlines()
    assert heading == "images.gz: none of 2 attempts worked"
    assert len(tries) == 2
    assert all(line.strip().startswith(f"{mirror.url}images.gz: {reason}") for line in tries)
    assert contents(tmp_path) == ({} if before is None else {"images.gz": before})


def test_files_before_the_failed_one_stay(mirror: Mirror, tmp_path: Path) -> None:
    mirror.serve("/labels.gz", Reply(status=404))
    with pytest.raises(DownloadError, match=r"labels\.gz"):
        fetch(tmp_path)
    assert contents(tmp_path) == {"images.gz": IMAGES}


def test_a_silent_server_times_out(mirror: Mirror, tmp_path: Path) -> None:
    mirror.serve("/images.gz", Reply(IMAGES[:1024], length=len(IMAGES), stall=True))
    with pytest.raises(DownloadError, match=r"images\.gz: ReadTimeout: timed out"):
        fetch(tmp_path, attempts=1, timeout_s=SHORT_SILENCE_S)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/", "ConnectError: "),  # tcpmux, which nobody runs
        ("ftp://127.0.0.1/", "UnsupportedProtocol: "),
        ("http://127.0.0.1:port/", "InvalidURL: "),
    ],
)
def test_a_useless_mirror_counts_as_an_attempt(
    url: str, reason: str, mirror: Mirror, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=re.escape(f"{url}images.gz: {reason}")):
        fetch(tmp_path, mirrors=[url], attempts=1)
    fetch(tmp_path, mirrors=[url, mirror.url])


def test_an_interrupt_midway_leaves_nothing(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = httpx.Response.iter_raw
    midway: list[dict[str, bytes]] = []

    def interrupted(response: httpx.Response) -> Iterator[bytes]:
        yield next(real(response))[:1024]
        midway.append(contents(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(httpx.Response, "iter_raw", interrupted)
    (tmp_path / "images.gz").write_bytes(WRONG)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path)
    assert len(midway[0]) == 2
    assert midway[0]["images.gz"] == WRONG
    assert contents(tmp_path) == {"images.gz": WRONG}


def test_a_full_disk_is_told_and_not_retried(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match=rf"{re.escape(str(tmp_path))}: .*No space left"):
        fetch(tmp_path)
    assert mirror.requests == ["/images.gz"]
    assert contents(tmp_path) == {}


def test_a_file_in_the_directorys_place_is_reported(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file")
    with pytest.raises(DownloadError, match="cannot download tiny to "):
        fetch(tmp_path / "data")
    assert contents(tmp_path) == {"data": b"a file"}


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    message = "unknown data set 'minst'; known: fashion-mnist, mnist"
    with pytest.raises(DownloadError, match=re.escape(message)):
        download("minst", tmp_path / "data")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_table_is_well_formed(name: str) -> None:
    data_set = module.DATA_SETS[name]
    assert len({file.name for file in data_set.files}) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in data_set.files)
    assert len(data_set.mirrors) == 2
    assert all(re.fullmatch("https?://.+/", url) for url in data_set.mirrors)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_table_tells_the_real_files(name: str) -> None:
    directory = Path(__file__).parents[5] / "shared/data" / name
    if not directory.is_dir():
        pytest.skip(f"no copy of {name} beside the project")
    for file in module.DATA_SETS[name].files:
        content = (directory / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
