"""What the Python clients take as images, against the running service."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.datastructures import UploadFile

from tests.api.client.helpers import Images, Use, free_port, near
from tests.processes import Server


class Sequential:
    """An open file that cannot be rewound, as a network stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> bytes:
        data, self._data = self._data, b""
        return data


def just_saved(data: bytes) -> BytesIO:
    """As after `image.save(file, "PNG")`: the position is at the end."""
    file = BytesIO()
    file.write(data)
    return file


def spooled(data: bytes) -> Any:
    file = tempfile.SpooledTemporaryFile(max_size=10)  # noqa: SIM115 - on disk; closed with it
    file.write(data)
    return file


def looked_at(path: Path) -> Any:
    file = path.open("rb")
    file.read(33)  # as a check of its header
    return file


ONE: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: BytesIO(path.read_bytes()),
    "BytesIO at its end": lambda path: just_saved(path.read_bytes()),
    "a spooled file": lambda path: spooled(path.read_bytes()),
    "an open file": lambda path: path.open("rb"),
    "an open file, unbuffered": lambda path: path.open("rb", buffering=0),
    "a file that was looked at": looked_at,
    "a stream": lambda path: Sequential(path.read_bytes()),
    "an upload": lambda path: UploadFile(BytesIO(path.read_bytes())),
    "a path": lambda path: path,
    "a name": str,
    "PIL": Image.open,
}
"""An image file, in every way that a program may hold one."""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # files that only their test holds
@pytest.mark.parametrize("kind", ONE)
def test_files_alone_and_in_lists(
    server: Server, use: Use, four: Images, paths: list[Path], kind: str
) -> None:
    expected = use(server.url, "encode", four).mu
    make = ONE[kind]
    assert use(server.url, "encode", make(paths[0])).mu == near(expected[:1])
    assert use(server.url, "encode", [make(path) for path in paths]).mu == near(expected)
    assert use(server.url, "encode", tuple(make(path) for path in paths[:2])).mu == near(
        expected[:2]
    )
    assert use(server.url, "encode", (make(path) for path in paths)).mu == near(expected)
    mixed = [make(paths[0]), paths[1], paths[2].read_bytes()]
    assert use(server.url, "encode", mixed).mu == near(expected[:3])
    scored = use(server.url, "iter_scores", make(paths[3]))
    assert len(scored) == 1, "not each byte or line of it"
    assert scored[0].score == pytest.approx(
        use(server.url, "anomaly_score", four[3:]).score[0], rel=1e-5
    )


@pytest.mark.parametrize("dtype", [object, str])
def test_paths_in_an_array(
    server: Server, use: Use, four: Images, paths: list[Path], dtype: type
) -> None:
    """As in a column of a table."""
    column: Any = np.array([str(path) for path in paths], dtype)
    expected = use(server.url, "encode", four).mu
    assert use(server.url, "encode", column).mu == near(expected)
    assert len(use(server.url, "iter_scores", column, 3)) == 4


def test_an_open_file_stays_where_it_was(server: Server, use: Use, paths: list[Path]) -> None:
    """So that the caller can save the upload afterwards."""
    for position in (0, 5):
        with paths[0].open("rb") as file:
            file.seek(position)
            use(server.url, "encode", [file])
            assert file.tell() == position


TENSORS: dict[str, Callable[[Images], Any]] = {
    "uint8": torch.from_numpy,
    "float": lambda x: torch.from_numpy(x) / 255,
    "double": lambda x: torch.from_numpy(x).double() / 255,
    "half": lambda x: torch.from_numpy(x).half() / 255,
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16() / 255,
    "with gradients": lambda x: (torch.from_numpy(x) / 255).requires_grad_(),
    "a view": lambda x: torch.from_numpy(x).repeat_interleave(2, dim=0)[::2],
    "a list": lambda x: list(torch.from_numpy(x)),
    "a list with gradients": lambda x: list((torch.from_numpy(x) / 255).requires_grad_()),
    "tensors and arrays": lambda x: [torch.from_numpy(x[0]), *x[1:]],
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_torch(server: Server, use: Use, four: Images, kind: str) -> None:
    near_half = 0.05 if kind in {"half", "bfloat16"} else 1e-4
    expected = use(server.url, "encode", four).mu
    found = use(server.url, "encode", TENSORS[kind](four)).mu
    assert found == pytest.approx(expected, abs=near_half)
    scores = use(server.url, "iter_scores", TENSORS[kind](four), 3)
    assert len(scores) == 4


def test_latents_as_tensors(server: Server, use: Use) -> None:
    z = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    expected = use(server.url, "decode", z.numpy())
    for latents in (z, z.double(), z.clone().requires_grad_(), list(z), z.tolist()):
        assert use(server.url, "decode", latents) == near(expected)


def test_a_tensor_needs_no_torch_in_the_client(server: Server, four: Images) -> None:
    """Anything that numpy can read as an array: the client never imports torch."""
    code = (
        "import sys, numpy as np\n"
        "from service.client import Client\n"
        "class Tensor:\n"
        "    def __array__(self, dtype=None, copy=None):\n"
        "        return np.zeros((2, 28, 28), np.float32)\n"
        f"print(Client({server.url!r}).encode(Tensor()).mu.shape, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "(2, 10) False\n"


class AsyncFile:
    """As of aiofiles."""

    async def read(self) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (lambda _: b"", ValueError, "0 bytes"),
        (lambda _: [BytesIO()], ValueError, r"images\[0\] is empty"),
        (lambda path: [path, StringIO("text")], TypeError, r"images\[1\].*mode 'rb'"),
        (lambda path: TextIOWrapper(BytesIO(path.read_bytes())), TypeError, "mode 'rb'"),
        (lambda _: AsyncFile(), TypeError, "await"),
        (lambda _: None, TypeError, "NoneType"),
        (lambda _: 5, TypeError, "int"),
        (lambda path: {"images": [path]}, TypeError, "dict"),
        (lambda _: [[0.0, 0.5]], TypeError, r"images\[0\] is of type list"),
        (lambda _: [], ValueError, "empty"),
        (lambda _: iter(()), ValueError, "empty"),
        (lambda path: [path, np.zeros((28, 28))], TypeError, "mixed"),
        (lambda path: [path, torch.zeros(28, 28)], TypeError, "mixed"),
        (
            lambda _: [np.zeros((28, 28)), np.zeros((1, 28, 28))],
            ValueError,
            r"images\[1\] has shape \(1, 28, 28\) and images\[0\] \(28, 28\)",
        ),
    ],
)
def test_what_is_no_image_is_named_before_it_is_sent(
    use: Use,
    paths: list[Path],
    images: Callable[[Path], Any],
    error: type[Exception],
    said: str,
) -> None:
    """Nothing listens at this address."""
    with pytest.raises(error, match=said):
        use(f"http://127.0.0.1:{free_port()}", "encode", images(paths[0]))


def test_batches_count_the_bytes_of_every_kind(
    server: Server, use: Use, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files that are too large together, each is sent alone."""
    sent: list[int] = []
    whole = "service.client.client.batches"
    from service.client import calls

    def batches(images: Any, size: int) -> Any:
        for batch in calls.batches(images, size):
            sent.append(len(batch))
            yield batch

    monkeypatch.setattr(whole, batches)
    monkeypatch.setattr(calls, "BATCH_BYTES", paths[0].stat().st_size + 1)
    for make in (Path.read_bytes, lambda path: just_saved(path.read_bytes()), str):
        sent.clear()
        assert len(use(server.url, "iter_scores", [make(path) for path in paths])) == 4
        assert sent == [1, 1, 1, 1]


def test_a_pipe_is_read(server: Server, use: Use, four: Images, paths: list[Path]) -> None:
    """It cannot be rewound."""
    reading, writing = os.pipe()
    data = paths[0].read_bytes()

    def write() -> None:
        with os.fdopen(writing, "wb") as out:
            out.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as file:
        found = use(server.url, "encode", file).mu
    thread.join()
    assert found == near(use(server.url, "encode", four[:1]).mu)


def test_the_map_of_a_score(server: Server, use: Use, four: Images, paths: list[Path]) -> None:
    """This bundle has no detector, so that each is the squared error; unknown ones are refused."""
    plain = use(server.url, "anomaly_map", four)
    assert use(server.url, "anomaly_map", four, score="mse") == near(plain)
    with pytest.raises(Exception, match="nope"):
        use(server.url, "anomaly_map", four, score="nope")
    drawn = use(server.url, "anomaly_map_png", paths[0], score="mse", scale=3)
    with Image.open(BytesIO(drawn)) as image:
        assert (image.format, image.size) == ("PNG", (84, 84))


def test_a_collection_with_another_rate_and_score(server: Server, use: Use, four: Images) -> None:
    expected = use(server.url, "anomaly_score", four, alpha=0.5, score="mse")
    found = use(server.url, "iter_scores", four, 3, alpha=0.5, score="mse")
    assert [score.score for score in found] == pytest.approx(expected.score.tolist())
    assert [score.is_anomaly for score in found] == expected.is_anomaly.tolist()
    assert any(expected.is_anomaly), "not the service's own rate"
