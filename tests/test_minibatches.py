"""A stream trains as memory does: every record once a pass, none that is held out, the same after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.test_training import Interrupted, same_weights
from tests.toy_tables import mixed_table
from vae_core import minibatches, records, training
from vae_core.encoding import TableEncoding
from vae_core.minibatches import InMemory, Streamed
from vae_core.model import VAE
from vae_core.training import Progress, Settings, fit

ROWS = 700


def table() -> pa.Table:
    return mixed_table(ROWS, 5).append_column("_record_id", pa.array([f"r{i}" for i in range(ROWS)]))


def stream(number: int) -> Iterator[pa.RecordBatch]:
    batches = table().to_batches(max_chunksize=60)
    return (batches[i] for i in np.random.default_rng(number).permutation(len(batches)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So little memory that 700 records do not fit."""
    monkeypatch.setattr(training, "MOST_CELLS", 1000)
    monkeypatch.setattr(training, "STREAM_CELLS", 1500)
    monkeypatch.setattr(minibatches, "BUFFER_CELLS", 1000)


def streamed(size: int, seed: int = 0) -> tuple[Streamed, np.ndarray]:
    numbers = pa.table({"x": np.arange(ROWS) + 0.25, "_record_id": [f"r{i}" for i in range(ROWS)]})
    encoding = TableEncoding.fit(iter(numbers.select(["x"]).to_batches()))
    held = np.sort(records.identities(numbers)[::10])
    vae = VAE(training._architecture(encoding, Settings(members=1)))
    source = lambda number: iter(numbers.to_batches(max_chunksize=50))  # noqa: E731 - one line, used twice
    device = torch.device("cpu")
    return Streamed(source, encoding, vae, held, size=size, seed=seed, device=device, identity=""), held


def seen(batches: Streamed, steps: range) -> np.ndarray:
    column = batches.encoding.described[0]
    values = torch.cat([batches.take(step).values for step in steps]).numpy()[:, 0]
    return np.rint(values * column.spread + column.mean - 0.25).astype(int)


def test_a_pass_has_every_record_once_mixed_and_none_that_is_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(minibatches, "BUFFER_CELLS", 200)
    batches, held = streamed(21)
    rows = seen(batches, range(30))  # 630 records: what is left of 700 without every tenth
    assert len(held) == 70
    assert sorted(rows) == [i for i in range(ROWS) if i % 10]
    assert np.abs(np.diff(rows)).mean() > 20  # in file order it would be 1
    again = seen(batches, range(30, 60))
    assert sorted(again) == sorted(rows)
    assert again.tolist() != rows.tolist()


def test_a_later_step_has_the_same_records_whether_or_not_the_earlier_ones_were_taken() -> None:
    whole, _ = streamed(16)
    late, _ = streamed(16)
    expected = [seen(whole, range(step, step + 1)).tolist() for step in range(50)][45:]
    assert [seen(late, range(step, step + 1)).tolist() for step in range(45, 50)] == expected
    assert seen(late, range(1)).tolist() == seen(streamed(16)[0], range(1)).tolist()  # and back


def test_an_epoch_in_memory_takes_every_record_once() -> None:
    values = torch.arange(90, dtype=torch.float32)[:, None]
    batches = InMemory((values, torch.ones(90, 1, dtype=torch.bool), values + 1, values[:, :0]), 15, seed=0)
    parts = [batches.take(step) for step in range(6)]
    assert sorted(torch.cat([part.values for part in parts])[:, 0].tolist()) == list(range(90))
    assert all(torch.equal(part.inputs, part.values + 1) for part in parts)
    assert batches.take(6).values.tolist() != parts[0].values.tolist()


def test_a_streamed_training_is_about_as_good_as_one_in_memory(small: None) -> None:
    settings = Settings(steps=150, members=1, batch_size=64)
    held = mixed_table(1000, 5, seed=3)
    by_stream = fit(lambda: iter(table().to_batches()), settings=settings, stream=stream)
    assert by_stream.summary["rows"]["streamed"]
    training.MOST_CELLS = 10**9  # set back by the fixture
    in_memory = fit(lambda: iter(table().to_batches()), settings=settings, stream=stream)
    assert not in_memory.summary["rows"]["streamed"]
    ours, theirs = by_stream.score(held).elbo, in_memory.score(held).elbo
    assert np.median(ours) > np.median(theirs) - 0.5
    # All have been trained on but those held out for calibration.
    assert len(by_stream.trained_on) == ROWS - by_stream.summary["rows"]["calibration"]
    assert np.isfinite(by_stream.score(table()).p_value).sum() == by_stream.summary["rows"]["calibration"]


def test_a_streamed_training_that_was_stopped_goes_on_with_the_same_bits(small: None, tmp_path: Path) -> None:
    settings = Settings(steps=40, members=1, batch_size=64)

    def stop(progress: Progress) -> None:
        if progress.step >= 24:
            raise Interrupted

    def train(checkpoint: Path | None = None, progress=None):
        return fit(
            lambda: iter(table().to_batches()), settings=settings, stream=stream, checkpoint=checkpoint,
            progress=progress,
        )  # fmt: skip

    with pytest.raises(Interrupted):
        train(tmp_path, stop)
    assert same_weights(train(tmp_path), train())
