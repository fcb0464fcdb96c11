"""Flags that hang on the draws: counted as their definition says, and from what each block truly gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.test_report import ranked, scored
from tests.toy_tables import mixed_table, trained
from vae_core.report import Decision
from vae_core.turning import BLOCKS


def with_blocks(table: pa.Table, by_block: np.ndarray) -> pa.Table:
    for b, name in enumerate(BLOCKS):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(by_block[:, b], pa.float32()))
    return table


@pytest.mark.parametrize("decision", [Decision(fdr=0.2), Decision(alpha=0.02), Decision(top_k=37)])
def test_flags_that_turn_are_counted_as_the_definition_says(decision: Decision, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    scores = generator.exponential(size=3000)
    p = np.exp(-scores) / np.where(scores > 3, 20, 1)
    p[::9] = np.nan
    by_block = generator.normal(0, 0.2, (3000, 4)).astype(np.float32)
    common = np.array([100.0, -3.0, 0.0, 7.0], np.float32)  # of all records: the ranking does not care
    table = with_blocks(scored(scores, p=p), by_block + common)
    result = ranked(table, tmp_path, [700, 1500], decision=decision)
    may = np.full(3000, True) if decision.top_k else ~np.isnan(p)
    order = np.argsort(-np.where(may, scores, -np.inf), kind="stable")
    flagged = np.zeros(3000, bool)
    flagged[order[: result.flagged]] = True
    lost, gained = np.zeros(3000, bool), np.zeros(3000, bool)
    for b in range(4):
        alone = np.where(may, scores + (by_block + common)[:, b], -np.inf)
        first = np.zeros(3000, bool)
        first[np.argsort(-alone, kind="stable")[: result.flagged]] = True
        lost |= flagged & ~first
        gained |= first & ~flagged
    assert result.flagged > 10
    assert result.turned == (lost.sum(), gained.sum())
    assert lost.any() and gained.any()


def test_equal_records_share_their_rank_and_none_of_them_turns(tmp_path: Path) -> None:
    table = with_blocks(scored(np.repeat([3.0, 2.0, 1.0], 4)), np.repeat(np.eye(3, 4) / 10, 4, axis=0))
    assert ranked(table, tmp_path, [], decision=Decision(top_k=6)).turned == (0, 0)


def test_one_block_has_no_other_to_compare_with(tmp_path: Path) -> None:
    table = scored(np.arange(5.0))
    nothing = pa.nulls(5, pa.float32())
    for name in BLOCKS:
        table = table.set_column(table.column_names.index(name), name, nothing)
    assert ranked(table, tmp_path, [2], decision=Decision(top_k=2)).turned is None


@pytest.mark.parametrize("committee", [{"columns_weight": 0.0, "kernel_weight": 0.0}, {}])
def test_a_blocks_score_is_that_of_its_noise_alone(committee: dict[str, float]) -> None:
    model, table = trained(mixed_table(300, 5), **committee), mixed_table(90, 5, seed=1)
    scores = model.score(table)
    assert np.ptp(scores.by_block) > 0.01
    for b in range(4):
        alone = replace(model, noise=model.noise[b : b + 1]).score(table)
        np.testing.assert_allclose(
            scores.anomaly_score + scores.by_block[:, b], alone.anomaly_score, rtol=1e-5, atol=1e-4
        )
