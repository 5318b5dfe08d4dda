"""A service whose bundle has ONNX graphs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.engine.engine import Engine
from service.inference.loading import load_engine
from service.settings import Settings
from tests.api.helpers import uint8_body
from tests.processes import Server, children, running, start_and_fail, wait_until
from tests.unit.model.engine.onnx_bundles import exported

N = 5


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return exported("mnist-conv")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundle.save(directory, "")
    return directory


@pytest.fixture
def workers(directory: Path) -> Iterator[Server]:
    """Two, each with two threads, so that each pass uses those of ONNX Runtime."""
    with running("--bundle", str(directory), "--workers", "2", "--threads", "2") as server:
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a fork server")
def test_forked_workers_and_their_successors_answer(
    workers: Server, bundle: Bundle, digits: NDArray[np.uint8]
) -> None:
    expected = Engine(bundle, device="cpu").score(digits[:N]).score

    def check() -> None:
        for _ in range(8):  # over connections of their own, so that both workers are asked
            with workers.client() as client:
                answer = client.post("/anomaly-score", json=uint8_body(digits[:N]))
                assert answer.headers["x-model-version"] == bundle.version
                found = np.array(answer.json()["score"])
                np.testing.assert_allclose(found, expected, rtol=1e-4)

    check()
    before = children(workers.process.pid)
    log = workers.log.read_text()
    assert log.count("computed by ONNX Runtime ") == len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: workers.log.read_text().count("computed by ONNX Runtime ") == 3)
    check()
    with workers.client() as client:
        model: httpx.Response = client.get("/model")
    assert (model.json()["device"], model.json()["version"]) == ("cpu", bundle.version)


def test_it_is_tried_before_it_serves(directory: Path) -> None:
    engine = load_engine(Settings(bundle=str(directory), threads=1))
    assert engine.runtime.startswith("ONNX Runtime ")
    assert engine.is_right(engine.score(engine.probe, "mse"))


def test_graphs_of_other_weights_fail_the_self_test(bundle: Bundle, tmp_path: Path) -> None:
    """Whose hashes are right: they are by whoever made the bundle."""
    other = exported("fashion-mnist-conv")
    replace(bundle, graphs=other.graphs).save(tmp_path, "")
    assert "differs from the bundle's record" in start_and_fail("--bundle", str(tmp_path))


def test_what_is_no_graph_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    wrong = {**bundle.graphs, "encoder": b"no graph"}
    replace(bundle, graphs=wrong).save(tmp_path, "")
    assert "encoder graph cannot be read" in start_and_fail("--bundle", str(tmp_path))
