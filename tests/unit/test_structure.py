"""Rules for the tests themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(*folders: str) -> Iterator[Path]:
    return (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def imported(source: str) -> set[str]:
    """Full names of what a module imports: of a module's part, too, as that may be a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def of_tests(names: set[str]) -> set[str]:
    """Test modules among imported names."""
    return {
        name
        for name in names
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    }


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.api.test_a import b", {"tests.api.test_a", "tests.api.test_a.b"}),
        ("from tests.api import test_a", {"tests.api.test_a"}),
        ("import tests.api.test_a as a", {"tests.api.test_a"}),
        (
            "def f():\n    from tests.unit.test_a import b",
            {"tests.unit.test_a", "tests.unit.test_a.b"},
        ),
        ("from tests.api.helpers import problem\nimport test_a", set()),
    ],
)
def test_imports_are_seen(source: str, found: set[str]) -> None:
    assert of_tests(imported(source)) == found


def test_no_test_imports_another() -> None:
    """What two of them need is in a module of helpers, or a fixture."""
    found = {
        path: of_tests(imported(path.read_text(encoding="utf-8"))) for path in modules("tests")
    }
    assert len(found) > 50
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("folder", ["benchmarks", "model", "service"])
def test_nothing_but_tests_imports_tests(folder: str) -> None:
    for path in modules(folder):
        names = imported(path.read_text(encoding="utf-8"))
        assert not {name for name in names if name.split(".")[0] == "tests"}, path
