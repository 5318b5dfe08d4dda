"""/metrics as OpenMetrics, with exemplars, for whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from tests.processes import Server, running

OPENMETRICS = "application/openmetrics-text"

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def scrape(http: httpx.Client, accept: str = OPENMETRICS) -> str:
    answer = http.get("/metrics", headers={"Accept": accept}).raise_for_status()
    assert answer.headers["content-type"] == f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
    assert answer.headers["vary"].split(", ")[0] == "Accept"
    return answer.text


def families_of(text: str) -> list[Metric]:
    """Parsed strictly."""
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call] # has no types


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families_of(text)
        for sample in family.samples
    }


def exemplars(http: httpx.Client, route: str) -> list[tuple[float, float, Exemplar]]:
    """Exemplars of a route's durations, with the bounds of their buckets."""
    found = []
    for family in families_of(scrape(http)):
        lower = 0.0
        for sample in family.samples:
            if sample.name == "vae_request_duration_seconds_bucket":
                upper = float(sample.labels["le"])
                if sample.labels["route"] == route and sample.exemplar:
                    found.append((lower, upper, sample.exemplar))
                lower = 0.0 if upper == float("inf") else upper
            else:
                assert not sample.exemplar
    return found


@pytest.mark.parametrize("accept", [OPENMETRICS, PROMETHEUS, f"{OPENMETRICS}, text/plain;q=0.9"])
def test_openmetrics_is_answered_where_it_is_preferred(http: httpx.Client, accept: str) -> None:
    http.get("/sample")
    text = scrape(http, accept)
    assert text.endswith("# EOF\n")
    found = values(text)
    of = (("method", "GET"), ("route", "/sample"), ("status", "200"))
    assert found["vae_requests_total", of] >= 1


@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "text/plain", "application/json", f"text/plain, {OPENMETRICS};q=0.5", "text/*"],
)
def test_others_get_prometheus_text_as_ever(http: httpx.Client, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    request = http.build_request("GET", "/metrics", headers=headers)
    if accept is None:
        del request.headers["accept"]
    answer = http.send(request)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# EOF" not in answer.text
    assert " # {" not in answer.text, "this format has no exemplars"


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_it_is_compressed_as_text_is(http: httpx.Client, encoding: str) -> None:
    for accept in ("text/plain", OPENMETRICS):
        answer = http.get("/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
        assert answer.headers.get("content-encoding", "identity") == encoding


def test_a_trace_is_the_exemplar_of_its_bucket(http: httpx.Client) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    answer = http.post("/encode", json={"images": [[0] * 784]}, headers=headers)
    span = answer.headers["traceparent"].split("-")[2]
    found = exemplars(http, "/encode")
    assert {"trace_id": TRACE, "span_id": span} in [exemplar.labels for _, _, exemplar in found]
    for lower, upper, exemplar in found:
        assert lower < exemplar.value <= upper
        assert exemplar.timestamp is not None


def test_no_trace_and_no_recorded_trace_leave_no_exemplar(http: httpx.Client) -> None:
    for headers in ({}, {"traceparent": f"00-{TRACE}-{CALLER}-00"}, {"traceparent": "nonsense"}):
        http.post("/decode", json={"n": 1}, headers=headers).raise_for_status()
    assert exemplars(http, "/decode") == []


def test_the_last_trace_counts(http: httpx.Client) -> None:
    for number in range(1, 40):
        headers = {"traceparent": f"00-{number:032x}-{CALLER}-01"}
        http.get("/model", headers=headers)
    found = exemplars(http, "/model")
    assert f"{39:032x}" in {exemplar.labels["trace_id"] for _, _, exemplar in found}
    assert len(found) <= 15, "one a bucket"


def test_several_workers_report_totals_as_openmetrics_too() -> None:
    with running("--workers", "2") as server:
        for number in range(1, 21):
            headers = {"traceparent": f"00-{number:032x}-{CALLER}-01"}
            httpx.get(f"{server.url}/sample", headers=headers)
        with server.client() as client:
            found = values(scrape(client))
            of = (("method", "GET"), ("route", "/sample"), ("status", "200"))
            assert found["vae_requests_total", of] == 20
            assert exemplars(client, "/sample"), "those of the worker that answers"
