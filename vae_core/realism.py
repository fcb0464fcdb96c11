"""How well a classifier tells generated records from real ones: 0.5 is best, 1 means it always can."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

__all__ = ["told_apart"]

MOST_ROWS = 1000  # of each kind
MOST_COMPONENTS = 32  # wider records are first projected on the real ones' principal components
FOLDS = 3


def told_apart(real: np.ndarray, made: np.ndarray, *, random_state: int = 0) -> float:
    """AUROC of gradient-boosted trees between real (n, m) and generated (k, m) records, cross-validated.

    NaN are missing cells. Of the larger side so many rows as of the smaller one are taken, at most 1,000. nan
    with fewer than 30 of either.

    >>> x = np.random.default_rng(0).normal(size=(400, 2))
    >>> told_apart(x[:200], x[200:]) < 0.65, told_apart(x[:200], x[200:] + 9) > 0.99
    (True, True)
    """
    generator = np.random.default_rng(random_state)
    count = min(len(real), len(made), MOST_ROWS)
    if count < 10 * FOLDS:
        return float("nan")
    both = [side[generator.permutation(len(side))[:count]] for side in (real, made)]
    x, y = np.concatenate(both).astype(np.float64), np.repeat([0, 1], count)
    if x.shape[1] > MOST_COMPONENTS:
        x = _components(x, count)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state)
    scores = []
    for train, test in folds.split(x, y):
        trees = HistGradientBoostingClassifier(max_iter=100, random_state=random_state).fit(
            x[train], y[train]
        )
        scores.append(roc_auc_score(y[test], trees.predict_proba(x[test])[:, 1]))
    return float(np.mean(scores))


def _components(x: np.ndarray, real: int) -> np.ndarray:
    """On the real records' principal components, and how far each record lies from their span."""
    mean = np.nanmean(x[:real], axis=0)
    centred = np.nan_to_num(x - mean)
    _, _, directions = np.linalg.svd(centred[:real], full_matrices=False)
    inside = centred @ directions[:MOST_COMPONENTS].T
    rest = np.square(centred).sum(1) - np.square(inside).sum(1)
    return np.c_[inside, rest]
