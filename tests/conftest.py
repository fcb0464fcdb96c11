"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests import shop

# Tests' tensors are tiny: on a busy machine a second thread that waits for its core costs 15 times the work.
torch.set_num_threads(1)


SERVICES = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "ELBORANK_HOME")


@pytest.fixture(scope="session")
def opened_shop(tmp_path_factory: pytest.TempPathFactory) -> shop.Shop:
    """The shop's folder, with a model trained by the command line, once for all tests."""
    from flows.cli import main

    folder = tmp_path_factory.mktemp("shop")
    shop.sales().to_csv(folder / "sales.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in SERVICES:
            patch.delenv(name, raising=False)
        assert main(shop.TRAIN) == 0
    return shop.Shop(folder)


@pytest.fixture
def in_shop(opened_shop: shop.Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[shop.Shop]:
    """The test runs in the shop's folder, without any configured service."""
    monkeypatch.chdir(opened_shop.folder)
    for name in SERVICES:
        monkeypatch.delenv(name, raising=False)
    yield opened_shop
