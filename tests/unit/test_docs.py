"""README, docs/ and CONTRIBUTING say what the code does, and what they name exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator
from statistics import median

import pytest
import yaml
from fastapi.routing import APIRoute
from pydantic_settings import CliApp

from benchmarks import report
from benchmarks.quality_tables import markdown
from benchmarks.reliability import results as reliability
from benchmarks.reliability.checks import CHECKS
from model.bundle.bundle import find_bundle, load_bundle
from model.commands import calibrate, demo, download, evaluate, import_checkpoint, train
from model.engine.engine import Engine
from model.scores.calibration import DEFAULT_DRAWS
from model.scores.detected import DETECTED_SCORES
from service.api import operations
from service.app import EXPOSED_HEADERS, ROUTERS
from service.errors import ServiceError
from service.settings import Settings
from tests.docs import ALL, PAGES, ROOT, fenced_block, pinned
from tests.pinned_docs import PINNED, serving_results

README = PAGES["README.md"]
API = PAGES["docs/api.md"]
CONTRIBUTING = PAGES["CONTRIBUTING.md"]

MODEL_COMMANDS = ("train", "calibrate", "evaluate", "import", "download", "demo")

ABANDON_S = 10
"""Seconds after which a batch that hangs is abandoned at a stop."""

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code() -> Iterator[str]:
    """Each line of the shell blocks and each inline piece of code, of all pages."""
    for language, text in FENCED.findall(ALL):
        if language == "sh":
            yield from text.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCED.sub("", ALL))


def commands(program: str) -> list[list[str]]:
    """Arguments of each call of a program that is written out, each once."""
    found = {}
    for line in code():
        match = re.match(rf"(?:\w+=\S* )*(?:\.venv/bin/)?{program} (.*)", line.strip())
        if match:
            found[match[1]] = shlex.split(match[1], comments=True)
    return list(found.values())


def model_commands() -> ArgumentParser:
    """The options of `python -m model`, which `vae` takes too."""
    parser = ArgumentParser(exit_on_error=False)
    commands = parser.add_subparsers()
    for command in (train, calibrate, evaluate, import_checkpoint, download, demo):
        command.add(commands)
    return parser


def test_readme_is_one_page() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("name", PINNED)
def test_what_is_made_from_code_and_results_is_as_made(name: str) -> None:
    assert pinned(name) == PINNED[name](), "python -m tests.pinned_docs writes it anew"


def test_every_pinned_part_is_known() -> None:
    assert sorted(re.findall(r"<!-- pinned: (.*?) -->", ALL)) == sorted(PINNED)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text))


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in links(PAGES[name]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        found = target.exists() and target.is_relative_to(ROOT)
        if not found or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_the_page_of_docs_links_to_all_of_them() -> None:
    named = {link.partition("#")[0] for link in links(README)}
    assert {name for name in PAGES if name.startswith("docs/")} <= named
    assert {"LICENSE", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"} <= named


def test_paths_named_exist() -> None:
    named = {
        path
        for text in code()
        for path in re.findall(
            r"(?<![\w./])((?:service|model|vae|benchmarks|tests|docs)/[\w./-]*)", text
        )
    }
    assert len(named) > 60
    assert {path for path in named if not (ROOT / path.rstrip(".")).exists()} == set()


def test_the_index_s_names_are_in_their_files() -> None:
    rows = re.search(r"^## Where is …\?\n(.*?)^## ", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    assert rows
    missing = []
    found = re.findall(r"^\| .*? \| (.*?) \| `([\w.]+)` \|$", rows[1], re.MULTILINE)
    assert len(found) >= 30
    for files, name in found:
        texts = [(ROOT / path).read_text() for path in re.findall(r"`([^`]+)`", files)]
        last = name.split(".")[-1]
        pattern = rf"\b(?:def|class) {last}\b|^{last}\b.* = |^#define {last}\b"
        if not any(re.search(pattern, text, re.MULTILINE) for text in texts):
            missing.append((files, name))
    assert missing == []


def test_constants_named_where_things_are_added_exist() -> None:
    """Each in one of the files that its paragraph names."""
    section = re.search(r"^## How to add …\n(.*?)^## ", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    assert section
    count = 0
    for paragraph in section[1].split("\n\n"):
        paths = re.findall(r"`((?:service|model|benchmarks)/[\w/]+\.py)`", paragraph)
        texts = "".join((ROOT / path).read_text() for path in paths)
        for name in re.findall(r"`([A-Z_]{4,})`", paragraph):
            count += 1
            assert re.search(rf"^{name}\b.* = ", texts, re.MULTILINE), name
    assert count >= 5


def test_modules_named_can_be_run() -> None:
    named = set(re.findall(r"python3? -m ([\w.]+)", ALL)) - {"pytest"}
    assert len(named) > 10
    broken = []
    for name in named:
        path = ROOT / name.replace(".", "/")
        main = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        if not main.exists() or 'if __name__ == "__main__":' not in main.read_text():
            broken.append(name)
    assert broken == []


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {arguments[0] for arguments in commands("make")}
    assert {"serve", "test"} <= named <= targets


def test_make_commands_are_understood() -> None:
    """As printed, up to where the command begins: `python -m model` has to take its options."""
    for arguments in commands("make"):
        done = subprocess.run(  # noqa: S603 - our own pages
            ["make", "--dry-run", *arguments],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            if match := re.search(rf"(?:model|vae) ((?:{'|'.join(MODEL_COMMANDS)}) .*)", line):
                model_commands().parse_args(shlex.split(match[1]))


def test_vae_commands_are_understood() -> None:
    named = commands("vae")
    assert {*MODEL_COMMANDS, "serve", "score", "keys"} <= {arguments[0] for arguments in named}
    for command, *options in named:
        if command in MODEL_COMMANDS and options:
            model_commands().parse_args([command, *options])
        elif command == "serve" and options:
            CliApp.run(Settings, cli_args=options)


def test_vae_has_the_commands_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["vae"].partition(":")
    start = f"import sys; from {module} import {function}; sys.exit({function}())"
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", start, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for command in {arguments[0] for arguments in commands("vae")}:
        assert re.search(rf"(?<![\w-]){command}\b", done.stdout)


def test_every_setting_named_exists() -> None:
    known = {f"VAE_{name.upper()}" for name in Settings.model_fields}
    known |= {"VAE_DATA_DIR", "VAE_API_KEY"}  # of the commands that train, and of the client
    known |= {"VAE_PROT", "VAE_SERVICE_HOST"}  # examples of what is no setting
    assert set(re.findall(r"\bVAE_[A-Z_]+", ALL)) - known == set()


def test_the_kubernetes_manifest_fits_the_service() -> None:
    pod = yaml.safe_load(fenced_block("kubernetes", "yaml"))["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    env = {item["name"]: item["value"] for item in container["env"]}
    settings = Settings.model_validate({k[4:].lower(): v for k, v in env.items()})
    assert pod["terminationGracePeriodSeconds"] > (
        settings.shutdown_delay_s + settings.shutdown_timeout_s + ABANDON_S
    )
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.model_fields["port"].default
    paths = {route.path for route in operations.router.routes if isinstance(route, APIRoute)}
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert asked["port"] == port["name"]
    (mount,) = container["volumeMounts"]
    assert (settings.api_keys_file or "").startswith(f"{mount['mountPath']}/")
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]


def test_every_route_is_documented() -> None:
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            path = route.path.replace("/versions/{version}", "")
            for method in route.methods or ():
                row = rf"^\| .*`{method} {re.escape(path)}`.* \|"
                assert re.search(row, API, re.MULTILINE), path


def test_every_header_is_documented() -> None:
    rows = re.search(r"^\| header of an answer \|.*?\n\n", API, re.MULTILINE | re.DOTALL)
    assert rows
    cells = re.findall(r"^\| (`.*?) \|", rows[0], re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(cells))) == sorted(EXPOSED_HEADERS)


def errors(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for found in kind.__subclasses__():
        yield found
        yield from errors(found)


def test_every_error_is_documented() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", API, re.MULTILINE)
    documented = {int(status) for row in rows for status in row.split(",")}
    assert {kind.status for kind in errors()} <= documented


def test_the_table_of_scores_is_that_of_the_code(engine: Engine) -> None:
    scores = PAGES["docs/scores.md"]
    match = re.search(r"<!-- offered.*?-->\n(.*?)\n\n", scores, re.DOTALL)
    assert match
    named = re.findall(r"^\| `(\w+)`", match[1], re.MULTILINE)
    assert sorted(named) == sorted(engine.scores)
    assert named[0] == engine.scores[0]
    assert f"default number, {DEFAULT_DRAWS}," in scores


def test_the_table_of_a_detector_s_scores_is_that_of_the_code() -> None:
    match = re.search(r"<!-- detected.*?-->\n(.*?)\n\n", PAGES["docs/scores.md"], re.DOTALL)
    assert match
    assert tuple(re.findall(r"^\| `(\w+)`", match[1], re.MULTILINE)) == DETECTED_SCORES


def test_the_figures_in_prose_are_those_of_the_results() -> None:
    found = load_bundle(find_bundle("mnist")).metrics["evaluation"]["false_alarms"]
    halves = {r["alpha"]: f"{r['mean']:.4f} ± {r['std']:.4f}" for r in found["exchangeable"]}
    assert f"{halves[0.05]} at 0.05 and {halves[0.01]} at 0.01" in README
    (refusals,) = (
        promise["measured"]
        for promise in reliability.read()["overload"]["promises"]
        if "time to refusal, p99" in promise["what"]
    )
    assert f"99 % of refusals take under {refusals}." in README
    results = serving_results()
    ours = [figures["ours"] for figures in results["rounds"]]
    performance = PAGES["docs/performance.md"]
    for page in (README, performance):
        assert f"commit `{results['commit']}`" in page
    ready_s, mib = (median(one[key] for one in ours) for key in ("ready_s", "ready_MiB"))
    assert f"| from start to the first answer | {ready_s:.1f} s |" in performance
    assert f"| {mib:.0f} MiB |" in performance


def test_the_results_as_markdown_are_those_as_json() -> None:
    directory = ROOT / "benchmarks" / "results"
    quality = json.loads((directory / "quality.json").read_text(encoding="utf-8"))
    assert markdown(quality) == (directory / "quality.md").read_text(encoding="utf-8")
    speed = (directory / "serving.md").read_text(encoding="utf-8")
    assert report.markdown(serving_results()) == speed
    found = reliability.read()
    assert reliability.markdown(found) == (directory / "reliability.md").read_text()
    assert tuple(found) == reliability.ORDER
    named = {promise["what"] for promise in found["checks"]["promises"]}
    assert named == {check.what for check in CHECKS}


def test_nothing_is_left_to_be_filled_in() -> None:
    assert re.findall(r"^[A-Z_]{4,}$|\bTODO\b|\bFIXME\b", ALL, re.MULTILINE) == []


def test_the_licence_is_apache_s() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert re.match(r"\s+Apache License\s+Version 2\.0, January 2004\s", text)
    assert "limitations under the License." in text
