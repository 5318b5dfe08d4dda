"""Names and values of metrics, and that no request can add time series."""

from __future__ import annotations

import os
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.metrics import REFUSALS, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(bundle="mnist", version="one")


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and values of labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_all_that_can_be_counted(metrics: Metrics) -> None:
    metrics.observe_request("POST", "/encode", 200, 0.5)
    metrics.observe_queue_wait(0.25)
    metrics.observe_batch(3, 0.125)
    metrics.count_disconnect()
    metrics.count_deadline_miss()
    metrics.count_scored(8, 2)
    metrics.count_scored(2, 0)
    for _ in range(2):
        metrics.count_refusal("queue_bytes")
    found = samples(metrics)
    expected = {
        ("vae_requests_total", ("POST", "/encode", "200")): 1,
        ("vae_request_duration_seconds_sum", ("/encode",)): 0.5,
        ("vae_queue_wait_seconds_sum", ()): 0.25,
        ("vae_queue_wait_seconds_count", ()): 1,
        ("vae_batch_duration_seconds_sum", ()): 0.125,
        ("vae_batch_images_sum", ()): 3,
        ("vae_disconnects_total", ()): 1,
        ("vae_deadline_misses_total", ()): 1,
        ("vae_scored_images_total", ()): 10,
        ("vae_anomalies_total", ()): 2,
        ("vae_refusals_total", ("queue_bytes",)): 2,
        ("vae_model_info", ("mnist", "one")): 1,
    }
    assert expected.items() <= found.items()


def test_gauges_are_read_when_they_are_shown(metrics: Metrics) -> None:
    images, bodies, connections = 3, 5, 7
    metrics.watch_queue(lambda: images, lambda: bodies)
    metrics.watch_connections(lambda: connections)
    for _ in range(2):
        found = samples(metrics)
        assert found["vae_queue_images", ()] == images
        assert found["vae_queue_bytes", ()] == bodies
        assert found["vae_connections", ()] == connections
        images, bodies, connections = 0, 0, 0


def test_memory_is_resident_memory(metrics: Metrics) -> None:
    if not os.path.exists("/proc/self/status"):  # noqa: PTH110 - one line
        pytest.skip("it is compared with /proc")
    found = samples(metrics)["vae_memory_bytes", ()]
    with open("/proc/self/status") as status:  # noqa: PTH123 - the kernel's
        (kilobytes,) = re.findall(r"VmRSS:\s*(\d+)", status.read())
    assert found == pytest.approx(1024 * int(kilobytes), rel=0.1)


def test_every_reason_of_a_refusal_is_there_from_the_start(metrics: Metrics) -> None:
    found = samples(metrics)
    assert {labels[0] for name, labels in found if name == "vae_refusals_total"} == set(REFUSALS)
    with pytest.raises(KeyError):
        metrics.count_refusal("something else")
    assert samples(metrics).keys() == found.keys()


def test_only_the_model_in_memory_is_named(metrics: Metrics) -> None:
    def named() -> set[tuple[str, ...]]:
        return {labels for name, labels in samples(metrics) if name == "vae_model_info"}

    for model in (("mnist", "two"), ("fashion-mnist", "three"), ("mnist", "one")):
        metrics.set_model(*model)
        assert named() == {model}
        metrics.set_model(*model)
        assert named() == {model}


def test_a_model_may_be_called_anything(metrics: Metrics) -> None:
    name = 'a "b"\\c\nd{e="f"} é'
    metrics.set_model(name, "two")
    assert samples(metrics)["vae_model_info", (name, "two")] == 1
