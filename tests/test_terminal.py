"""What commands print says what is true of the numbers beside it."""

from __future__ import annotations

from typing import Any

import pytest

from flows import terminal


def printed(show: Any, result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    terminal.show(result, False, show)
    return " ".join(capsys.readouterr().out.split())


def test_generate_names_the_columns_some_of_whose_categories_are_not_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = {"n": 3, "output": "x.csv", "rarer": {"city": 0.28125, "[b]": 1.0}, "distances": []}
    told = "are not generated: city (28.1 % of training's values), [b] (100 % of training's values)"
    assert printed(terminal.generated, result, capsys).endswith(told)
    assert "not generated" not in printed(terminal.generated, result | {"rarer": {}}, capsys)
