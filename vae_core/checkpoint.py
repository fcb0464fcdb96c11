"""The state of a training: the best one so far in memory, and all of it on disk when a folder is given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vae_core import distributed
from vae_core.adam import FlatAdam
from vae_core.model import VAE

__all__ = ["Checkpoint"]


class Checkpoint:
    """Keeps the best parameters; with a folder, writes all that a training needs to resume.

    The order of records and the noise follow from the seed and the step, so a resumed training on a CPU gives
    the same bits as one that was never interrupted. The two files are written under temporary names and
    renamed, the small one last. `run` is what else the result depends on (records, schedule, seed) as JSON
    values: the state of another run is never taken up, it is overwritten.
    """

    def __init__(self, folder: Path | None, vae: VAE, optimiser: FlatAdam, *, run: Mapping[str, Any]) -> None:
        self.folder = folder
        self.vae = vae
        self.optimiser = optimiser
        self.run = dict(run) | {"architecture": vae.architecture.to_json()}
        self.best: dict[str, Tensor] = {}

    def keep_best(self) -> None:
        self.best = {name: tensor.detach().clone() for name, tensor in self.vae.state_dict().items()}

    def restore_best(self) -> None:
        self.vae.load_state_dict(self.best)

    def save(self, step: int, best_step: int, best: float, history: list[dict[str, float]]) -> None:
        """Write everything that the next step depends on; of several processes the first one does."""
        if self.folder is None or distributed.place()[0] > 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"now.{name}": tensor for name, tensor in self.vae.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"adam.{name}": value for name, value in self.optimiser.state.items()}
        document: dict[str, Any] = {
            "step": step,
            "best_step": best_step,
            "best": None if math.isnan(best) else best,
            "history": [{k: None if math.isnan(v) else v for k, v in entry.items()} for entry in history],
            "run": self.run,
        }
        name = f"step-{step}.safetensors"
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, self.folder / f".{name}")
        (self.folder / f".{name}").replace(self.folder / name)
        (self.folder / ".state.json").write_text(json.dumps(document | {"tensors": name}))
        (self.folder / ".state.json").replace(self.folder / "state.json")
        for old in self.folder.glob("step-*.safetensors"):
            if old.name != name:
                old.unlink()

    def resume(self) -> tuple[int, int, float, list[dict[str, float]]]:
        """Take up the saved state: step, best step, best held-out ELBO, history; zeros when there is none."""
        path = self.folder / "state.json" if self.folder else None
        if path is None or not path.exists() or self.folder is None:
            return 0, 0, -math.inf, []
        document = json.loads(path.read_text())
        if document.get("run") != self.run:
            return 0, 0, -math.inf, []
        tensors = load_file(self.folder / document["tensors"])
        self.vae.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("now.")})
        self.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best.")}
        self.optimiser.load({k[5:]: v for k, v in tensors.items() if k.startswith("adam.")})
        history = [
            {k: math.nan if v is None else v for k, v in entry.items()} for entry in document["history"]
        ]
        best = math.nan if document["best"] is None else document["best"]
        return document["step"], document["best_step"], best, history
