"""Adam (Kingma & Ba 2015) on one buffer of parameters: torch's own fused step, without its optimiser class.

`torch.optim.Adam` imports torch's compiler, which no training here uses: 2 CPU-seconds, more than a small
table takes to train. The step is the same function, and gives the same bits (a test holds the two together).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["FlatAdam"]

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class FlatAdam:
    """Minimises by the gradient in `flat.grad`; `state` is all that the next step depends on."""

    def __init__(self, flat: Tensor, rate: float) -> None:
        self.flat, self.rate = flat, rate
        self.state = {
            "step": torch.zeros((), device=flat.device),
            "exp_avg": torch.zeros_like(flat, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(flat, requires_grad=False),
        }

    @torch.no_grad()
    def step(self) -> None:
        """One step in place."""
        assert self.flat.grad is not None
        adam(
            [self.flat],
            [self.flat.grad],
            [self.state["exp_avg"]],
            [self.state["exp_avg_sq"]],
            [],
            [self.state["step"]],
            fused=True,
            amsgrad=False,
            beta1=BETA_1,
            beta2=BETA_2,
            lr=self.rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a state of before."""
        for name, own in self.state.items():
            own.copy_(state[name])
