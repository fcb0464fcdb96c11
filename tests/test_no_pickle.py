"""Nothing that loads or uses a model unpickles anything: checked by Python's own audit events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows import registry
from tests import shop

ROOT = Path(__file__).resolve().parents[1]
# Imports come first: what the packages we stand on do while they are imported is theirs.
PROGRAM = """
import pickle, sys
from pathlib import Path
import mlflow.pyfunc
import pyarrow.parquet as pq
import torch
from flows import pyfunc_model, registry, steps
from vae_core import explanation, job, report, storage, work

met = []

def refuse(event, arguments):
    if event == "pickle.find_class":
        met.append(arguments)
        raise RuntimeError(f"unpickled {arguments}")

sys.addaudithook(refuse)
kept = pickle.dumps(Path("x"))
try:
    pickle.loads(kept)
    raise SystemExit("the hook does not see a pickle")
except RuntimeError:
    met.clear()
folder = registry.resolve("models:/shop@champion").folder
table = pq.read_table("week.parquet")
direct = storage.load(folder).score(table).anomaly_score
by_mlflow = mlflow.pyfunc.load_model(str(folder.parent.parent)).predict(table.to_pandas())
assert (direct == by_mlflow["anomaly_score"]).all()
options = {"output": sys.argv[1], "as_of": None, "replace": False, "workers": 1, "members": None}
told = steps.score("week.parquet", model="models:/shop@champion", **options)
print(len(direct), told["ranked"], len(met))
"""


def test_loading_and_scoring_unpickle_nothing(in_shop: shop.Shop, tmp_path: Path) -> None:
    frame = shop.sales().tail(30)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, "week.parquet")
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                 "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        Path("week.parquet").unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-3:] == ["30", "30", "0"]


def test_a_models_folder_holds_no_pickle(in_shop: shop.Shop) -> None:
    """Not by its content: JSON and safetensors are read by parsers that cannot run code."""
    folder = registry.resolve("models:/shop@champion").folder.parent.parent
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    read_as_text = {"", ".py", ".yaml", ".txt", ".html", ".css", ".js", ".typed"}
    assert kinds <= read_as_text | {".json", ".safetensors"}, kinds
