"""Forty bad models that must not become champion, nor run anything, and twenty good ones that must.

    python -m tests.bench.bad_models [--bad 40] [--good 20]

A bad model is a good one that was spoilt before or after it was registered; each kind with several seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import numpy as safetensors_numpy

from flows import promotion, registry, steps
from tests import shop
from vae_core import storage
from vae_core.errors import InputError, Refused

Spoil = Callable[[Path, np.random.Generator, Path], None]
WEIGHTS = "weights.safetensors"


def reseal(folder: Path) -> None:
    """A manifest that fits what lies in the folder: the spoiler knows how to make one."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {n: sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_weights(folder: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> None:
    arrays = safetensors_numpy.load((folder / WEIGHTS).read_bytes())
    changed = {n: change(n, a.copy()) if n.startswith("vae.") else a for n, a in arrays.items()}
    (folder / WEIGHTS).write_bytes(safetensors_numpy.save(changed))
    reseal(folder)


def not_a_number(folder: Path, generator: np.random.Generator, _: Path) -> None:
    """NaN or infinity in the decoder."""
    wild = generator.choice([np.nan, np.inf, -np.inf])

    def spoil(name: str, array: np.ndarray) -> np.ndarray:
        if "decoder_head" in name and array.dtype.kind == "f":
            array.flat[generator.integers(array.size)] = wild
        return array

    change_weights(folder, spoil)


def constant(folder: Path, generator: np.random.Generator, _: Path) -> None:
    """Every parameter the same number."""
    value = generator.choice([0.0, 0.01, -0.1])
    change_weights(folder, lambda _, a: np.full_like(a, value) if a.dtype.kind == "f" else a)


def worse(folder: Path, generator: np.random.Generator, _: Path) -> None:
    """Noise on every parameter."""
    change_weights(
        folder,
        lambda _, a: a + generator.normal(0, 0.3, a.shape).astype(a.dtype) if a.dtype.kind == "f" else a,
    )


def truncated(folder: Path, generator: np.random.Generator, _: Path) -> None:
    """The weights end early, and the manifest says that this is right."""
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(generator.integers(0, len(content)))])
    reseal(folder)


def wrong_schema(folder: Path, generator: np.random.Generator, _: Path) -> None:
    """A column that the data does not have."""
    document = json.loads((folder / "encoding.json").read_text())
    profile = json.loads((folder / "profile.json").read_text())
    chosen = document["columns"][int(generator.integers(1, len(document["columns"])))]
    old, chosen["name"] = chosen["name"], f"{chosen['name']}_{generator.integers(100)}"
    profile["columns"][chosen["name"]] = profile["columns"].pop(old)
    (folder / "encoding.json").write_text(json.dumps(document))
    (folder / "profile.json").write_text(json.dumps(profile))
    reseal(folder)


def uncalibrated(folder: Path, generator: np.random.Generator, _: Path) -> None:
    """p-values from another model's scores."""
    document = json.loads((folder / "calibration.json").read_text())
    shift = float(generator.uniform(3, 30))
    document["whole"]["scores"] = [score + shift for score in document["whole"]["scores"]]
    (folder / "calibration.json").write_text(json.dumps(document))
    reseal(folder)


def pickled(folder: Path, generator: np.random.Generator, marker: Path) -> None:
    """A pickle that writes a file when it is read, in place of a file of the model and beside it."""
    code = f"open({str(marker)!r}, 'w').close()".encode()
    evil = b"cbuiltins\nexec\n(V" + code + b"\ntR."
    for name in ("python_model.pkl", "data.pkl"):
        (folder / name).write_bytes(evil)
    (folder / [WEIGHTS, "model.json", "encoding.json"][int(generator.integers(3))]).write_bytes(evil)
    reseal(folder)


def flipped_later(folder: Path, generator: np.random.Generator, _: Path) -> None:
    """One bit of one file, after the version was registered."""
    names = [WEIGHTS, "model.json", "encoding.json", "calibration.json", "manifest.json"]
    path = folder / names[int(generator.integers(len(names)))]
    content = bytearray(path.read_bytes())
    content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))
    path.write_bytes(bytes(content))


BEFORE: dict[str, Spoil] = {
    f.__name__: f for f in (not_a_number, constant, worse, truncated, wrong_schema, uncalibrated, pickled)
}
AFTER: dict[str, Spoil] = {"flipped_later": flipped_later}


def register(folder: Path, data: Any, name: str) -> registry.ModelVersion:
    """As `steps.register` does, but without loading the model: a spoiler would not."""
    return registry.register(
        folder,
        name=name,
        sha256=storage.model_digest(folder),
        columns=data.columns,
        example=pd.DataFrame({column: ["x"] for column in data.columns}),
        params={"spoilt": True},
        tags={"dataset_digest": data.digest, "dataset_folder": str(data.folder)},
    )


def try_bad(kind: str, seed: int, good: Path, data: Any, folder: Path, name: str) -> str | None:
    """Spoil a copy, register it, ask for promotion; what is wrong, or None: refused, and nothing ran."""
    generator = np.random.default_rng([seed, *kind.encode()])
    spoilt, marker = folder / f"{kind}-{seed}" / "model", folder / f"{kind}-{seed}-ran"
    shutil.copytree(good, spoilt)
    before = registry.champion(name)
    if kind in BEFORE:
        BEFORE[kind](spoilt, generator, marker)
    version = register(spoilt, data, name)
    if kind in AFTER:
        AFTER[kind](version.folder, generator, marker)
    try:
        promotion.promote(name, version.version)
    except Refused:
        pass
    else:
        return f"{kind}, seed {seed}: promoted"
    finally:
        ran = marker.exists()
    after = registry.champion(name)
    if ran:
        return f"{kind}, seed {seed}: a pickle was executed"
    if before is None or after is None or after.version != before.version:
        return f"{kind}, seed {seed}: the champion changed"
    return None


def try_good(seed: int, data: Any, folder: Path, name: str) -> str | None:
    """Train as one does, with another seed; what is wrong, or None: promoted."""
    settings = {"steps": 200, "random_state": seed}
    fitted = steps.fit(data, folder / f"good-{seed}", kinds={}, settings=settings)
    version = steps.register(fitted, data, name=name, kinds={}, settings=settings)
    try:
        promotion.promote(name, version.version)
    except Refused as refusal:
        return f"good, seed {seed}: {refusal}"
    return None


def prepare(folder: Path) -> tuple[Any, Path]:
    """The shop's data, and a good model of it, registered as champion."""
    shop.sales().to_csv(folder / "sales.csv", index=False)
    data = steps.ingest(str(folder / "sales.csv"), ids=["sale"], time="hour")
    fitted = steps.fit(data, folder / "first", kinds={}, settings={"steps": 200})
    steps.register(fitted, data, name="shop", kinds={}, settings={"steps": 200})
    return data, fitted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bad", type=int, default=40)
    parser.add_argument("--good", type=int, default=20)
    options = parser.parse_args()
    kinds = [*BEFORE, *AFTER]
    with tempfile.TemporaryDirectory(prefix="elborank-bad-models-") as temporary:
        folder = Path(temporary)
        os.environ["ELBORANK_HOME"] = str(folder / "home")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        data, good = prepare(folder)
        wrong = []
        for number in range(options.bad):
            kind, seed = kinds[number % len(kinds)], number // len(kinds)
            wrong.append(try_bad(kind, seed, good, data, folder, "shop"))
            print(f"bad: {kind}, seed {seed}: {wrong[-1] or 'refused'}", flush=True)
        for seed in range(1, options.good + 1):
            wrong.append(try_good(seed, data, folder, "shop"))
            print(f"good, seed {seed}: {wrong[-1] or 'promoted'}", flush=True)
    failed = [line for line in wrong if line]
    print(f"{options.bad} bad and {options.good} good models, {len(failed)} wrong decisions")
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
