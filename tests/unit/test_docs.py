"""What README.md, the Dockerfile and docker-compose.yml say is what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from benchmarks import report
from benchmarks.quality_tables import markdown
from benchmarks.reliability import results as reliability
from benchmarks.reliability.checks import CHECKS
from model.bundle.bundle import PRETRAINED, find_bundle, load_bundle, pretrained_names
from model.engine.engine import Engine
from model.scores.calibration import DEFAULT_DRAWS
from service.settings import Settings
from service.telemetry.metrics import REFUSALS, Metrics
from service.telemetry.request_log import JsonLines, RequestRecord, TextLines
from service.telemetry.trace_context import Trace
from tests.conftest import Server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
CONTAINER_FILES = DOCKERFILE + COMPOSE


def settings_table() -> str:
    rows = ["| setting | default | what it is |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        rows.append(f"| `VAE_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_settings_table_is_that_of_the_code() -> None:
    assert settings_table() in README, f"README.md should have:\n{settings_table()}"


@pytest.mark.parametrize("text", [README, CONTAINER_FILES], ids=["README", "container"])
def test_every_setting_named_exists(text: str) -> None:
    known = {f"VAE_{name.upper()}" for name in Settings.model_fields}
    known |= {"VAE_DATA_DIR", "VAE_API_KEY"}  # of the commands that train, and of the client
    assert set(re.findall(r"\bVAE_[A-Z_]+", text)) - known == set()


def metrics_table() -> str:
    rows = ["| metric | type | labels | what it is |", "| --- | --- | --- | --- |"]
    for metric in Metrics(bundle="", version="")._registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        name = f"{metric._name}{'_total' * (metric._type == 'counter')}"
        labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
        rows.append(f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |")
    return "\n".join(rows)


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    assert f"\n{metrics_table()}\n\n" in README, f"README.md should have:\n{metrics_table()}"
    assert f"Reasons are {', '.join(f'`{reason}`' for reason in REFUSALS)}." in README


def log_lines() -> str:
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
    return "".join(re.sub(r"20[0-9-]+T[0-9:.]+Z", "2026-01-31T12:00:00.123Z", x) for x in lines)


def test_the_lines_of_the_log_are_those_of_the_code() -> None:
    assert f"```\n{log_lines()}```\n" in README, f"README.md should have:\n{log_lines()}"


def test_the_benchmarks_tables_are_those_committed() -> None:
    assert (ROOT / "benchmarks/results/body_types.md").read_text(encoding="utf-8") in README
    quality = (ROOT / "benchmarks/results/quality.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\|.*?\n(?=\n)", quality, re.MULTILINE | re.DOTALL)
    assert tables[0] in README


def test_the_speed_tables_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks/results/serving.json").read_text(encoding="utf-8"))
    speed = (ROOT / "benchmarks/results/serving.md").read_text(encoding="utf-8")
    assert report.markdown(results) == speed
    goals, one_image = re.findall(r"^\|.*?\n(?=\n)", speed, re.MULTILINE | re.DOTALL)[:2]
    assert goals in README
    columns = [[cell.strip() for cell in row.split("|")[1:-1]] for row in one_image.splitlines()]
    quoted = table_of("speed")
    assert len(quoted) == len(columns) - 2
    for row, (name, *figures) in zip(quoted, columns[2:], strict=True):
        assert row[0] == name
        assert row[1:4] == [figures[i].split(" ")[0] for i in (0, 2, 4)]


def test_the_reliability_table_is_that_of_the_results() -> None:
    found = reliability.read()
    assert reliability.markdown(found) == (ROOT / "benchmarks/results/reliability.md").read_text()
    assert reliability.table(found) in README
    assert tuple(found) == reliability.ORDER
    named = {promise["what"] for promise in found["checks"]["promises"]}
    assert named == {check.what for check in CHECKS}


def test_the_quality_tables_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks/results/quality.json").read_text(encoding="utf-8"))
    quality = (ROOT / "benchmarks/results/quality.md").read_text(encoding="utf-8")
    assert markdown(results) == quality


def table_of(marker: str) -> list[list[str]]:
    """The cells of README's first table after `<!-- marker`, without its head."""
    match = re.search(rf"<!-- {marker}.*?\n(\|.*?)\n\n", README, re.DOTALL)
    assert match
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in match[1].split("\n")[2:]]


def test_the_table_of_bundles_is_theirs() -> None:
    rows = {name.split("`")[1]: figures for name, _, *figures in table_of("bundles")}
    assert set(rows) == set(pretrained_names())
    for name, figures in rows.items():
        test = load_bundle(find_bundle(name)).metrics["test"]
        assert figures == [f"{test['mse']:.4f}", f"{test['kl']:.1f}"]


def test_the_false_alarms_are_those_of_the_cards() -> None:
    *rows, (_, _, *halves) = table_of("quality")
    assert {name.strip("`") for name, *_ in rows} == set(pretrained_names())
    for name, _, *found in rows:
        measured = load_bundle(find_bundle(name.strip("`"))).metrics["evaluation"]["false_alarms"]
        rates = {r["alpha"]: r["rate"] for r in measured["rates"] if r["score"] == "fused"}
        assert found == [f"{rates[alpha]:.4f}" for alpha in (0.05, 0.01)]
        split = {r["alpha"]: r for r in measured["exchangeable"]}
        assert halves == [f"{split[a]['mean']:.4f} ± {split[a]['std']:.4f}" for a in (0.05, 0.01)]


def test_the_table_of_scores_is_that_of_the_code(engine: Engine) -> None:
    match = re.search(r"<!-- offered.*?-->\n(.*?)\n\n", README, re.DOTALL)
    assert match
    named = re.findall(r"^\| `(\w+)`", match[1], re.MULTILINE)
    assert sorted(named) == sorted(engine.scores)
    assert named[0] == engine.scores[0]
    assert f"default number, {DEFAULT_DRAWS}," in README


def test_nothing_is_left_to_be_filled_in() -> None:
    assert re.findall(r"^[A-Z_]{4,}$", README, re.MULTILINE) == []


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`|\S=\S+ )make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_container_check_and_command_work(server: Server) -> None:
    """HEALTHCHECK's command, against a running service and against none."""
    commands = [json.loads(text) for text in re.findall(r"CMD (\[.*\])", DOCKERFILE)]
    assert commands == [["python", "-m", "service.healthcheck"], ["python", "-m", "service"]]
    port = server.url.rsplit(":", 1)[1]
    for number, status in ((port, 0), ("1", 1)):
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, *commands[0][1:]],
            env={"VAE_PORT": number},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == status, done.stderr
        assert len(done.stderr.splitlines()) == status


def test_container_pins_the_same_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = set(re.findall(r"torch==[\d.]+", DOCKERFILE + "\n".join(project["dependencies"])))
    assert len(pins) == 1
    assert pins.pop() in (ROOT / "constraints.txt").read_text().split()


def test_the_wheel_carries_the_weights(tmp_path: Path) -> None:
    """`pip install .`, as the Dockerfile has it, must give a package that can serve."""
    subprocess.run(  # noqa: S603 - our own command
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)),
            str(copy_source(tmp_path)),
        ],
        check=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for bundle in pretrained_names():
        for path in (PRETRAINED / bundle).rglob("*.*"):
            assert f"model/pretrained/{path.relative_to(PRETRAINED).as_posix()}" in names
        assert f"model/training/recipes/{bundle}.toml" in names
    assert not any(name.startswith("tests") for name in names)


def copy_source(tmp_path: Path) -> Path:
    """What the Dockerfile copies, so that building leaves nothing in the checkout."""
    source = tmp_path / "source"
    (copied,) = re.findall(r"COPY (.+) \./\n", DOCKERFILE)
    paths = [ROOT / name for name in [*copied.split(), "model", "service"]]
    source.mkdir()
    subprocess.run(  # noqa: S603 - our own command
        ["cp", "-r", *map(str, paths), str(source)],  # noqa: S607 - cp is everywhere
        check=True,
    )
    return source
