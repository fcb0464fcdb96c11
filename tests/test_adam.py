"""Adam's step against torch's own class, and without the compiler that it imports."""

from __future__ import annotations

import subprocess
import sys

import torch

from vae_core.adam import FlatAdam


def test_it_gives_the_bits_of_torchs_own_class() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    flat, reference = FlatAdam(ours, 1e-2), torch.optim.Adam([theirs], lr=1e-2, fused=True)
    for step in range(50):
        flat.rate = reference.param_groups[0]["lr"] = 1e-2 / (1 + step)
        gradient = torch.randn(1000, generator=generator) * 10.0 ** (step % 7 - 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        flat.step()
        reference.step()
    assert torch.equal(ours, theirs)
    assert all(torch.equal(flat.state[name], value) for name, value in reference.state[theirs].items())


def test_training_imports_no_compiler() -> None:
    code = (
        "import sys, numpy as np, pandas as pd; from vae_core.detector import VAEDetector; "
        "x = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3))); VAEDetector(steps=2).fit(x); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
