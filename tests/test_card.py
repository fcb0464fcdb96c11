"""`elborank models show`: the model card in a terminal."""

from __future__ import annotations

import pytest

from tests import shop
from tests.test_cli import complaint, run, run_json


def test_the_model_card_tells_the_data_the_quality_and_each_column(
    in_shop: shop.Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run_json(capsys, "models", "show", "shop")
    assert (told["name"], told["version"], told["aliases"]) == ("shop", "1", ["champion"])
    card = told["card"]
    monkeypatch.setenv("COLUMNS", "80")
    assert run("models", "show", "shop", "--version", "1") == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines() if "Model folder" not in line) <= 80
    rows = card["summary"]["rows"]
    assert f"{rows['fit']} records" in shown and f"{rows['calibration']} were held out" in shown
    assert f"{card['summary']['heldout_elbo']:.4g} nats" in shown
    assert all(name in shown for name in ("weight", "price", "kind", "card", "[red]plum[/red]"))
    assert set(card["tilts"]) == set(card["members"])
    assert all(own["spread"] > 0 for own in card["tilts"].values())
    assert "usual bound" in shown and f"{card['tilts']['vae']['usual']:.4g}" in shown
    assert run("models", "show", "shop", "--hide-values") == 0
    hidden = capsys.readouterr().out
    assert "plum" not in hidden and "weight" in hidden


def test_a_model_or_a_version_that_is_not_there_is_one_line(
    in_shop: shop.Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nobody" in complaint(capsys, 2, "models", "show", "nobody")
    assert "9" in complaint(capsys, 2, "models", "show", "shop", "--version", "9")
