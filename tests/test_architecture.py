"""The house is built as drawn: imports point down, the library stays light, no file grows out of sight."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the roof down: a module of vae_core may import what stands below it, never beside or above.
ORDER = (
    "stores",
    "job",
    "page",
    "card",
    "comparison",
    "feedback",
    "timeline",
    "similar",
    "report",
    "work",
    "first_rows",
    "turning",
    "ranking",
    "publishing",
    "engines",
    "detector",
    "frames",
    "storage",
    "images",
    "training",
    "committee",
    "descent",
    "minibatches",
    "linear_start",
    "balanced_start",
    "left_out",
    "checkpoint",
    "adam",
    "drift",
    "explanation",
    "repair",
    "imputation",
    "generation",
    "scoring",
    "scores",
    "tilt",
    "records",
    "calibration",
    "sources",
    "members",
    "encoding",
    "gate",
    "cells",
    "vectors",
    "columns",
    "arrow",
    "ppca",
    "noise",
    "chance",
    "realism",
    "model",
    "networks",
    "single",
    "likelihoods",
    "grey_bernoulli",
    "bounds",
    "devices",
    "distributed",
    "sums",
    "disk",
    "errors",
)
# What the base install lacks: the library must import without.
NOT_IN_THE_LIBRARY = (
    "prefect",
    "mlflow",
    "ray",
    "typer",
    "rich",
    "pydantic",
    "fastapi",
    "sqlalchemy",
    "duckdb",
    "boto3",
    "botocore",
)
LONGEST_FILE = 400
LONGER_FOR_A_REASON = {
    "tests/test_encoding.py": "one promise after another, for every kind of column",
}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {
    *("eval", "exec", "torch.load", "torch.save", "yaml.load", "read_pickle", "to_pickle", "os.system"),
}


def sources_of(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """vae_core/sources/cells.py -> vae_core.sources.cells"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at any depth: both `a.b` and `a.b.c` for `from a.b import c`."""
    own = dotted(path).split(".")
    package = own if path.name == "__init__.py" else own[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name: str) -> str | None:
    """vae_core.sources.cells -> sources; None for what is no module of vae_core."""
    parts = name.split(".")
    return parts[1] if parts[0] == "vae_core" and len(parts) > 1 and parts[1] in ORDER else None


def test_every_module_of_the_library_has_its_place_in_the_order() -> None:
    found = {dotted(path).split(".")[1] for path in sources_of("vae_core") if dotted(path) != "vae_core"}
    assert found == set(ORDER)


def test_imports_in_the_library_point_down() -> None:
    wrong = []
    for path in sources_of("vae_core"):
        own = room(dotted(path))
        for name in imported(path):
            other = room(name)
            if own and other and other != own and ORDER.index(other) < ORDER.index(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}, which stands above it")
    assert not wrong, "\n".join(wrong)


def test_no_two_files_import_each_other_in_a_circle() -> None:
    known = {dotted(path): path for path in sources_of("vae_core")}
    graph = {own: {n for n in imported(path) if n in known and n != own} for own, path in known.items()}
    for name, below in graph.items():
        # `from package import module` names the package too, which is no use of its __init__'s contents.
        graph[name] = {b for b in below if not any(other.startswith(f"{b}.") for other in below)}
        graph[name] -= {parent for parent in below if name.startswith(f"{parent}.")}
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the files


def test_the_library_never_imports_the_flows() -> None:
    for path in sources_of("vae_core"):
        assert not [name for name in imported(path) if name.split(".")[0] == "flows"], path


def test_the_library_imports_without_the_extras_and_loads_none_of_them() -> None:
    modules = [dotted(path) for path in sources_of("vae_core")]
    program = f"""
import importlib, sys
import vae_core
light = [name for name in {NOT_IN_THE_LIBRARY!r} if name in sys.modules]
assert not light, light
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_IN_THE_LIBRARY!r}:
            raise ModuleNotFoundError(f"not in the base install: {{name}}", name=name)
sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["vae_core", "flows", "data"])
def test_nothing_unpickles_or_evaluates(folder: str) -> None:
    wrong = []
    for path in sources_of(folder):
        place = path.relative_to(ROOT)
        wrong += [f"{place} imports {n}" for n in imported(path) if n.split(".")[0] in UNSAFE_MODULES]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS or called.split(".")[-1] in UNSAFE_CALLS - {"eval"}:
                wrong.append(f"{place}, line {node.lineno}: {called}")
            if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
                wrong.append(f"{place}, line {node.lineno}: allow_pickle")
    assert not wrong, "\n".join(wrong)


def test_no_file_outgrows_a_few_screens_without_a_reason() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("vae_core", "flows", "tests", "data")
        for path in sources_of(folder)
    }
    too_long = {file for file, length in lengths.items() if length > LONGEST_FILE}
    assert too_long <= set(LONGER_FOR_A_REASON)
