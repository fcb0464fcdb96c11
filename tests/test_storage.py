"""A model as a folder: the same bits back, damage refused before anything is parsed, whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vae_core import storage, training
from vae_core.errors import InputError
from vae_core.explanation import explain
from vae_core.generation import sample
from vae_core.scoring import FittedModel, Scores

HERE = Path(__file__).resolve().parent
FROZEN = sorted((HERE / "frozen_models").glob("v*"))
TUMOURS = HERE.parent / "data" / "breast_cancer" / "breast_cancer.parquet"


def table(rows: int = 300) -> pa.Table:
    r = np.random.default_rng(0)
    x = r.normal(size=rows)
    return pa.table(
        {
            "_record_id": [f"r{i}" for i in range(rows)],
            'x "1" 🌡': x,
            "y": pa.array(
                np.where(r.random(rows) < 0.1, np.nan, 3 * x + r.normal(size=rows)), from_pandas=True
            ),
            "name": r.choice(["ä", "b", "c"], rows).tolist(),
            "n": r.poisson(3, rows),
            "k": [2**53 + 1] * rows,
        }
    )


def train(**options: Any) -> FittedModel:
    settings = training.Settings(**({"steps": 20, "hidden": (8,), "members": 2, "draws": 8} | options))
    return training.fit(lambda: iter(table().to_batches()), settings=settings)


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return train()


@pytest.fixture
def folder(model: FittedModel, tmp_path: Path) -> Path:
    storage.save(model, tmp_path / "model")
    return tmp_path / "model"


def assert_same_bits(ours: Scores, theirs: Scores) -> None:
    for field in dataclasses.fields(Scores):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "lecture"},
        {"likelihood": "continuous_bernoulli"},
        {"columns_weight": 0.0},
        {"draws": 1},
    ],
)
def test_a_loaded_model_gives_the_same_bits(options: dict[str, Any], tmp_path: Path) -> None:
    model = train(**options)
    storage.save(model, tmp_path / "m")
    loaded = storage.load(tmp_path / "m")
    assert_same_bits(loaded.score(table()), model.score(table()))
    assert_same_bits(loaded.score(table(), draws=4), model.score(table(), draws=4))
    for name in model.weights:
        assert_same_bits(
            loaded.with_members([name]).score(table()), model.with_members([name]).score(table())
        )
    assert explain(loaded, table(20)).equals(explain(model, table(20)))
    assert sample(loaded, 50, missing=True).equals(sample(model, 50, missing=True))
    assert loaded.settings == model.settings
    assert loaded.encoding.to_json() == model.encoding.to_json()


def test_records_of_training_have_no_p_value_after_loading_either(folder: Path) -> None:
    p = storage.load(folder).score(table()).p_value
    assert np.isnan(p).sum() == 270  # the tenth that calibrates was not trained on
    assert ((p[~np.isnan(p)] > 0) & (p[~np.isnan(p)] <= 1)).all()


def test_the_same_model_is_the_same_bytes(model: FittedModel, folder: Path, tmp_path: Path) -> None:
    storage.save(model, tmp_path / "again")
    storage.save(storage.load(folder), tmp_path / "loaded")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for other in ("again", "loaded"):
        assert {path.name: path.read_bytes() for path in (tmp_path / other).iterdir()} == first
    assert storage.model_digest(folder) == storage.model_digest(tmp_path / "again")
    assert storage.model_digest(folder) != storage.save(train(random_state=1), tmp_path / "other")["files"]


def test_the_folder_holds_json_and_safetensors_and_no_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibration.json",
        "encoding.json",
        "manifest.json",
        "model.json",
        "profile.json",
        "weights.safetensors",
    ]
    for path in folder.glob("*.json"):
        assert isinstance(json.loads(path.read_bytes()), dict)
    header = int.from_bytes((folder / "weights.safetensors").read_bytes()[:8], "little")
    names = json.loads((folder / "weights.safetensors").read_bytes()[8 : 8 + header])
    assert any(name.startswith("vae.") for name in names)


def flips(size: int, count: int) -> Iterator[tuple[int, int]]:
    """All bits of a small file, or some of a larger one, its ends among them."""
    bits = (
        range(8 * size) if 8 * size <= count else np.unique(np.linspace(0, 8 * size - 1, count).astype(int))
    )
    return (divmod(int(bit), 8) for bit in bits)


@pytest.mark.parametrize("name", ["manifest.json", *storage.FILES])
def test_one_flipped_bit_in_any_file_is_refused_in_one_line(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(storage.TableEncoding, "from_json", lambda document: parsed.append("encoding"))
    monkeypatch.setattr(storage.safetensors_numpy, "load", lambda data: parsed.append("weights"))
    path = folder / name
    whole = path.read_bytes()
    for byte, bit in flips(len(whole), 1200 if name == "manifest.json" else 60):
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"manifest|sha256|format") as caught:
            storage.load(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert parsed == []


@pytest.mark.parametrize("name", ["manifest.json", *storage.FILES])
def test_a_truncated_or_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(InputError, match=name):
            storage.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        storage.load(folder)


def test_a_file_exchanged_with_another_models_is_refused(folder: Path, tmp_path: Path) -> None:
    storage.save(train(random_state=9), tmp_path / "other")
    (folder / "weights.safetensors").write_bytes((tmp_path / "other" / "weights.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"weights\.safetensors.*does not match its sha256"):
        storage.load(folder)


@pytest.mark.parametrize("files", [{}, {"model.msgpack": "0" * 64}])
def test_a_newer_format_is_refused_with_the_way_out_whatever_files_it_has(
    folder: Path, files: dict[str, str]
) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format_version": 99, "files": files}))
    with pytest.raises(
        InputError, match=r"has format 99.*reads formats 1 to 2\. Install the release that wrote it"
    ):
        storage.load(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{}", '{"format_version": 1}', '{"format_version": 1, "files": 3}', "\\xff"]
)
def test_a_manifest_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"the manifest is damaged\. Fetch the model again"):
        storage.load(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"is not a model folder: it has no manifest\.json"):
            storage.load(place)


def test_an_existing_folder_is_never_written_to(model: FittedModel, folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(FileExistsError):
        storage.save(model, folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("survives", range(8))
def test_a_kill_between_files_leaves_a_whole_folder_or_none(
    model: FittedModel, tmp_path: Path, survives: int
) -> None:
    """Six files and two folders are flushed: the writer dies at each of these moments in turn."""
    target = tmp_path / "model"
    child = os.fork()
    if child == 0:
        calls = iter(range(100))
        flush = os.fsync

        def deadly(descriptor: int) -> None:
            if next(calls) == survives:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(descriptor)

        storage.os.fsync = deadly
        try:
            storage.save(model, target)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert target.exists() == (survives == 7)
    if not target.exists():
        storage.save(model, target)
    assert_same_bits(storage.load(target).score(table(20)), model.score(table(20)))


@pytest.mark.parametrize("folder", FROZEN, ids=lambda folder: folder.name)
def test_a_model_of_an_earlier_release_loads_and_scores_as_it_did(folder: Path) -> None:
    """Another processor may differ in the last bits, no release in more."""
    expected = pq.read_table(folder / "expected.parquet")
    records = pq.read_table(TUMOURS).slice(0, expected.num_rows)
    model = storage.load(folder / "model")
    scores = model.score(records)
    for name in ("bound", "elbo", "reconstruction", "kl", "p_value"):
        np.testing.assert_allclose(
            getattr(scores, name), expected.column(name).to_numpy(), rtol=1e-6, atol=1e-6
        )
    explained = explain(model, records.slice(0, 20))
    # Clause by clause: which one comes first is this release's judgement, not what the model holds.
    words = [
        [sorted(re.sub(r"[-+.,\d]+", "#", why).split("; ")) for why in column.to_pylist()[:20]]
        for column in (explained.column("why"), expected.column("why"))
    ]
    assert words[0] == words[1]
