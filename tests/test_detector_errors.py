"""What VAEDetector says of input and parameters that it cannot use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.test_detector import frame, numbers, quick

PROBLEMS: list[tuple[Any, str]] = [
    (
        lambda: quick().fit(np.ones((20, 2))),
        r"no column can be learnt from: x0 \(constant\), x1 \(constant\)",
    ),
    (lambda: quick().fit(np.array([[np.inf, 1.0]] * 3)), "infinity"),
    (lambda: quick().fit(frame().assign(price=np.inf)), "infinity in column 'price'"),
    (lambda: quick().fit(pd.DataFrame(numbers(), columns=["a", "a", "b"])), r"column names repeat: \['a'\]"),
    (
        lambda: quick().fit(frame().rename(columns={"price": "(unusual combination)"})),
        r"column '\(unusual combination\)': explanations use this name themselves; rename",
    ),
    (lambda: quick().fit(pd.DataFrame({1: [1.0, 2.0], "1": [3.0, 4.0]})), r"column names repeat: \['1'\]"),
    (lambda: quick().fit(pd.DataFrame({"a": [[1], [2]]})), "column 'a' of type object cannot be used"),
    (lambda: quick().fit(pd.DataFrame({"a": [1j, 2j]})), "column 'a' of type complex128 cannot be used"),
    (
        lambda: quick().fit(frame().assign(price=pd.to_timedelta(1, unit="s"))),
        "column 'price' of type timedelta",
    ),
    (lambda: quick().fit(frame().iloc[:0]), r"0 sample\(s\)"),
    (lambda: quick().fit(numbers(1)), "a single record"),
    (lambda: quick().fit(frame(1)), "a single record"),
    (lambda: quick(preset="best").fit(numbers()), "preset is one of default, lecture; got 'best'"),
    (lambda: quick(alpha=0.0).fit(numbers()), "alpha must lie between 0 and 1; got 0.0"),
    (lambda: quick(latent=0).fit(numbers()), "latent must be a whole number and at least 1; got 0"),
    (lambda: quick(steps="many").fit(numbers()), "steps must be a whole number and at least 1; got 'many'"),
    (lambda: quick(draws=2.5).fit(numbers()), "draws must be a whole number and at least 1; got 2.5"),
    (lambda: quick(batch_size=True).fit(numbers()), "batch_size must be a whole number"),
    (
        lambda: quick(learning_rate="fast").fit(numbers()),
        "learning_rate must be a number above 0; got 'fast'",
    ),
    (lambda: quick(learning_rate=0.0).fit(numbers()), "learning_rate must be a number above 0; got 0.0"),
    (lambda: quick(hidden=64).fit(numbers()), "hidden is a sequence of widths, each at least 1; got 64"),
    (lambda: quick(hidden=(8, "x")).fit(numbers()), "hidden is a sequence of widths"),
    (lambda: quick(hidden=()).fit(numbers()), "hidden is a sequence of widths"),
    (lambda: quick(kinds=["whole"]).fit(numbers()), "kinds is a mapping of column name to kind"),
    (lambda: quick().fit(numbers()).sample(random_state="x"), "random_state is a whole number; got 'x'"),
    (lambda: quick().fit(np.ma.masked_less(np.ones((60, 8, 8)), 0)), "images with masked pixels"),
    (lambda: quick(kernel_weight="much").fit(numbers()), "kernel_weight must be 0 or more; got 'much'"),
    (lambda: quick(alpha="low").fit(numbers()), "alpha must lie between 0 and 1; got 'low'"),
    (lambda: quick(device="moon").fit(numbers()), "device is auto, cpu or cuda; got 'moon'"),
    (lambda: quick(random_state="x").fit(numbers()), "random_state is a whole number; got 'x'"),
    (
        lambda: quick().fit(frame()).score_samples(frame()[frame().columns[::-1]]),
        "must be in the same order",
    ),
    (lambda: quick().fit(frame()).score_samples(frame().assign(new=1)), "unseen at fit time:\n- new"),
    (lambda: quick(likelihood="poisson").fit(numbers()), "likelihood is None.*got 'poisson'"),
    (lambda: quick(kinds={"price": "number"}).fit(frame()), 'column "price": "number" is not a kind'),
    (lambda: quick(kinds={"cots": "real"}).fit(frame()), 'column "cots".* is "cost"'),
    (
        lambda: quick().fit(frame()).score_samples(frame().assign(price="cheap")),
        "column 'price' was double.*'cheap'",
    ),
    (lambda: quick().fit(frame()).score_samples(frame().assign(when=1.5)), "column 'when' was timestamp"),
    (lambda: quick().fit(frame()).score_samples(frame().drop(columns="price")), "missing:\n- price"),
    (
        lambda: quick().fit(numbers()).score_samples(numbers()[:, :2]),
        "X has 2 features, but .* is expecting 3",
    ),
    (lambda: quick().score_samples(numbers()), "not fitted yet"),
    (lambda: quick().fit(numbers()).sample(-1), "n_samples is a whole number of at least 0; got -1"),
]


@pytest.mark.parametrize(("attempt", "message"), PROBLEMS, ids=[message for _, message in PROBLEMS])
def test_an_error_says_what_was_found(attempt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attempt()
