"""docs/lecture.md names functions and tests that exist."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "lecture.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGE)))
NAMES = sorted(set(re.findall(r"`(vae_core(?:\.\w+)+)`", PAGE)))


@pytest.mark.parametrize("name", NAMES)
def test_every_function_that_the_lecture_page_names_exists(name: str) -> None:
    parts = name.split(".")
    value = importlib.import_module(".".join(parts[:2]))
    for part in parts[2:]:
        value = getattr(value, part)


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_every_test_that_the_lecture_page_names_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_step_of_the_lecture_has_a_function_and_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "the lecture |" not in line]
    assert len(rows) >= 20
    for row in rows:
        assert re.search(r"\| `vae_core\.[\w.]+` \| `tests/\w+\.py::test_\w+` \|$", row), row
