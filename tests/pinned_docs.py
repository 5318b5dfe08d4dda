"""The parts of README and docs/ that are made from the code and from benchmarks/results.

A test compares them; `python -m tests.pinned_docs` writes them anew.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from prometheus_client.metrics import MetricWrapperBase

from benchmarks import report
from benchmarks.peers.table import SERVERS
from benchmarks.reliability import results as reliability
from benchmarks.workloads import ONE
from model.bundle.bundle import find_bundle, load_bundle, pretrained_names
from service.api import schemas
from service.settings import Settings
from service.telemetry.metrics import REFUSALS, Metrics
from service.telemetry.request_log import JsonLines, RequestRecord, TextLines
from service.telemetry.trace_context import Trace
from tests.docs import ROOT

RESULTS: Final = ROOT / "benchmarks" / "results"

QUERIES: Final[Mapping[str, type[schemas.Query]]] = {
    "/encode": schemas.EncodeQuery,
    "/decode": schemas.DecodeQuery,
    "/reconstruct": schemas.ReconstructQuery,
    "/anomaly-score": schemas.ScoreQuery,
    "/preprocess": schemas.PreprocessQuery,
    "/sample": schemas.SampleQuery,
    "/model/calibration": schemas.CalibrationQuery,
    "/recent": schemas.RecentQuery,
}

DATA_SETS: Final = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A Markdown table whose last `numbers` columns are aligned to the right."""
    aligned = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, aligned, *rows))


def settings() -> str:
    return table(
        ("setting", "default", "what it sets"),
        (
            (
                f"`VAE_{name.upper()}`",
                "unset" if field.default is None else f"`{_as_typed(field.default)}`",
                str(field.description),
            )
            for name, field in Settings.model_fields.items()
        ),
    )


def _as_typed(value: object) -> str:
    """A default as one would type it: `false`, and not Python's `False`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parameters() -> str:
    """Of queries: a row for each name and meaning, with the routes that share it."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for route, model in QUERIES.items():
        for name, field in model.model_fields.items():
            kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
            values = get_args(kinds[0]) if kinds else ()
            default = str(field.default).lower() if field.default is not None else "–"
            shown = f"`{name}`" + (f" ({', '.join(values)})" if values else "")
            rows.setdefault((shown, default, str(field.description)), []).append(f"`{route}`")
    return table(
        ("parameter", "routes", "default", "meaning"),
        (
            (name, ", ".join(routes), default, meaning)
            for (name, default, meaning), routes in rows.items()
        ),
    )


def metrics() -> str:
    rows = []
    for metric in Metrics(bundle="", version="")._registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        name = f"{metric._name}{'_total' * (metric._type == 'counter')}"
        labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
        rows.append((f"`{name}`", str(metric._type), labels, metric._documentation))
    return table(("metric", "type", "labels", "what it counts"), rows)


def refusals() -> str:
    return f"Reasons of `vae_refusals_total`: {', '.join(f'`{reason}`' for reason in REFUSALS)}."


def log() -> str:
    ended = RequestRecord(
        time=1_769_860_800.123,
        request_id="6f1f9d1fb0f34bd2b0a0c4d28f1a6c55",
        method="POST",
        route="/anomaly-score",
        path="/anomaly-score",
        status=200,
        seconds=0.0011,
        queue_s=0.0001,
        infer_s=0.0009,
        images=1,
        model_version="5b1f0a6c9d2e",
        trace=Trace("00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01", "00f067aa0ba902b7"),
        key="laboratory",
    )
    lines = (made.of_request(ended).decode() for made in (TextLines(), JsonLines()))
    text = "".join(re.sub(r"20[0-9-]+T[0-9:.]+Z", "2026-01-31T12:00:00.123Z", x) for x in lines)
    return f"```\n{text}```"


def bundles() -> str:
    rows = []
    for name in pretrained_names():
        bundle = load_bundle(find_bundle(name))
        kind = {"mlp": "fully connected", "conv": "convolutional"}[bundle.config.architecture]
        test = bundle.metrics["test"]
        shown = f"`{name}`{' (default)' * (name == Settings.model_fields['bundle'].default)}"
        latents = f"{kind}, latent size {bundle.config.latent_size}"
        rows.append((shown, latents, f"{test['mse']:.4f}", f"{test['kl']:.1f}"))
    return table(("bundle", "network", "test MSE, z = μ", "KL, nats"), rows, 2)


def false_alarms() -> str:
    """Rates of the default score, as the bundles' own evaluations found them."""
    rows, halves = [], []
    for name in pretrained_names():
        found = load_bundle(find_bundle(name)).metrics["evaluation"]["false_alarms"]
        rates = {r["alpha"]: r["rate"] for r in found["rates"] if r["score"] == "fused"}
        data_set = DATA_SETS["fashion-mnist" if name.startswith("fashion") else "mnist"]
        rows.append((f"`{name}`", data_set, *(f"{rates[alpha]:.4f}" for alpha in (0.05, 0.01))))
        split = {r["alpha"]: r for r in found["exchangeable"]}
        halves.append([f"{split[a]['mean']:.4f} ± {split[a]['std']:.4f}" for a in (0.05, 0.01)])
    assert all(each == halves[0] for each in halves)
    rows.append(("all of them", "halves of the 10,000 held out", *halves[0]))
    return table(("bundle", "test images", "α = 0.05", "α = 0.01"), rows, 2)


def own_images() -> str:
    return (RESULTS / "false_alarms.md").read_text(encoding="utf-8").strip()


def quality() -> str:
    return _tables("quality.md")[0]


def body_types() -> str:
    return (RESULTS / "body_types.md").read_text(encoding="utf-8").strip()


def goals() -> str:
    return _tables("serving.md")[0]


def speed() -> str:
    return _one_image((("requests/s, 1 connection", "1", "requests_per_s", 0), REQUESTS, P50))


def peers() -> str:
    return _one_image((REQUESTS, P50))


def reliability_table() -> str:
    return reliability.table(reliability.read())


Column = tuple[str, str, str, int]
"""Head, connections, figure, digits."""

REQUESTS: Final[Column] = ("requests/s, 32 connections", "32", "requests_per_s", 0)
P50: Final[Column] = ("p50, ms, 1 connection", "1", "p50_ms", 2)


def _one_image(columns: Sequence[Column]) -> str:
    """Medians of all rounds, a row a server."""
    rounds = serving_results()["rounds"]
    rows = []
    for name in SERVERS:
        found = [figures[name]["workloads"][ONE] for figures in rounds if name in figures]
        medians = (
            f"{statistics.median(work[connections][key] for work in found):,.{digits}f}"
            for _, connections, key, digits in columns
        )
        if found:
            rows.append((report.title(name), *medians))
    return table(("server", *(head for head, *_ in columns)), rows, len(columns))


def serving_results() -> dict[str, Any]:
    """Of `make bench`."""
    found: dict[str, Any] = json.loads((RESULTS / "serving.json").read_text(encoding="utf-8"))
    return found


def page() -> str:
    """The page in a browser, by `make bench-page`."""
    return _tables("page.md")[0]


def _tables(name: str) -> list[str]:
    text = (RESULTS / name).read_text(encoding="utf-8")
    return [
        found.strip() for found in re.findall(r"^\|.*?\n(?=\n)", text, re.MULTILINE | re.DOTALL)
    ]


PINNED: Final[Mapping[str, Callable[[], str]]] = {
    "settings": settings,
    "parameters": parameters,
    "metrics": metrics,
    "refusals": refusals,
    "log": log,
    "bundles": bundles,
    "false alarms": false_alarms,
    "own images": own_images,
    "quality": quality,
    "body types": body_types,
    "page": page,
    "goals": goals,
    "speed": speed,
    "peers": peers,
    "reliability": reliability_table,
}


def main() -> None:
    """Write all of them into the pages that have their comments."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        for name, make in PINNED.items():
            comment = f"<!-- pinned: {name} -->\n"
            if comment in text:
                before, _, after = text.partition(comment)
                old = "" if after.startswith("\n") else after.split("\n\n", 1)[0] + "\n\n"
                text = before + comment + make() + "\n\n" + after.removeprefix(old).lstrip("\n")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
