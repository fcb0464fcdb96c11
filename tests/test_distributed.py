"""Several processes train one model: equal parameters everywhere, no worse than one process alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_training import ring
from vae_core import storage
from vae_core.training import Settings, fit

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
from pathlib import Path
from tests.test_training import ring
from vae_core import distributed, storage
from vae_core.training import Settings, fit
with distributed.joined() as (number, processes):
    assert processes == 2
    settings = Settings(steps=120, members=2, device=sys.argv[2])
    model = fit(lambda: iter(ring(800).to_batches()), settings=settings)
    storage.save(model, Path(sys.argv[1]) / str(number))
"""


def torchrun(*command: str, cwd: Path = ROOT, expected: int = 0, **environment: str) -> str:
    """Two processes on this machine; what they print, and where they fail what they say of it."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launch, *command], cwd=cwd, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    assert done.returncode == expected, done.stderr[-3000:]
    return done.stdout if not expected else done.stderr


TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, TWO_GPUS])])
def test_two_processes_end_with_equal_parameters_and_are_no_worse_than_one(
    tmp_path: Path, device: str
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    torchrun(str(tmp_path / "program.py"), str(tmp_path), device)
    first, second = (storage.load(tmp_path / str(number)) for number in (0, 1))
    settings = Settings(steps=120, members=2, device=device)
    alone = fit(lambda: iter(ring(800).to_batches()), settings=settings)
    for name, tensor in first.vae.state_dict().items():
        assert torch.equal(tensor, second.vae.state_dict()[name]), name
        # The same records and noise, shared out: only the order of the sums differs.
        torch.testing.assert_close(tensor, alone.vae.state_dict()[name], rtol=5e-2, atol=5e-3)
    fresh = ring(2000, seed=5)
    assert np.mean(first.score(fresh).elbo) > np.mean(alone.score(fresh).elbo) - 0.05


@pytest.mark.slow
def test_the_train_command_under_torchrun_registers_one_model(tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame(ring(300).to_pydict()).to_csv(tmp_path / "ring.csv", index=False)
    command = ["-m", "flows.cli", "train", "ring.csv", "--name", "ring", "--steps", "20", "--json"]
    printed = torchrun(*command, cwd=tmp_path, ELBORANK_HOME=str(tmp_path / "home"))
    assert json.loads(printed)["version"] in ("1", 1)
    assert not json.loads(printed)["reused"]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("more", [[], ["--retrain"]])
def test_what_the_first_process_refuses_is_one_line_and_the_others_leave_quietly(
    tmp_path: Path, more: list[str]
) -> None:
    (tmp_path / "ring.csv").write_text("x,y\n" + "1.5,2.5\n2,3\n" * 40)
    command = ["-m", "flows.cli", "train", "ring.csv", "--name", "ring", "--device", "cuda", *more]
    said = torchrun(*command, cwd=tmp_path, expected=1, ELBORANK_HOME=str(tmp_path / "home"))
    ours = [line for line in said.splitlines() if line.startswith(("elborank:", "[rank"))]
    assert len(ours) == 1
    assert ours[0].startswith('elborank: device "cuda": there is no GPU that torch can use.')


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_a_model_as_good_as_the_processors() -> None:
    fresh = ring(2000, seed=5)
    elbos = [
        fit(lambda: iter(ring(800).to_batches()), settings=Settings(steps=120, members=2, device=name))
        .score(fresh)
        .elbo.mean()
        for name in ("cuda", "cpu")
    ]
    assert elbos[0] == pytest.approx(elbos[1], abs=0.05)
