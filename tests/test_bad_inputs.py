"""Every bad input of the table is one line that says what to do; docs/bad-inputs.md is that table."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import main
from tests import shop
from tests.bad_inputs import PAGE, Bad, page, raw_tables, table


@pytest.mark.parametrize("bad", table(), ids=lambda bad: f"{bad.area}: {bad.name}")
def test_a_bad_input_is_one_line_that_says_what_to_do(
    bad: Bad, in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in bad.files.items():
        (tmp_path / name).write_bytes(content)
    if bad.make is not None:
        bad.make(tmp_path)
        capsys.readouterr()
    assert main([word.replace("{folder}", str(tmp_path)) for word in bad.command]) == 2
    told = capsys.readouterr()
    lines = told.err.strip().splitlines()
    assert bad.said in told.err, told.err
    assert "Traceback" not in told.err and (len(lines) <= 2 or "Usage:" in told.err), told.err
    assert not list(tmp_path.glob("store/*/*")) and not list(tmp_path.glob("out/*/as_of=*"))
    assert not list(tmp_path.glob("out/*/.*"))


def test_there_are_a_hundred_and_the_page_shows_them() -> None:
    assert len(raw_tables()) + len(table()) >= 100
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.bad_inputs"
