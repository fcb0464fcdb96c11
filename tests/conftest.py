"""What all tests share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from tests import shop

# Tests' tensors are tiny: on a busy machine a second thread that waits for its core costs 15 times the work.
torch.set_num_threads(1)


class Refuses(BaseHTTPRequestHandler):
    """Says 401 to everything, as a server does to a wrong password."""

    def do_GET(self) -> None:
        self.send_error(401)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def refusing() -> Iterator[int]:
    """The port of a server that refuses every password."""
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed() -> int:
    """The port of a server that has gone."""
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    server.server_close()
    return server.server_port


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
