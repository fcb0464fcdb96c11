"""What README and docs say is so: commands parse, links lead somewhere, Python runs, help is today's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from tests.make_commands_page import PAGE, commands_page

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*/ABOUT.md")])


def fenced(path: Path, language: str) -> list[str]:
    """The code blocks of a page in one language ("" for none)."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [text for named, text in blocks if named == language]


def typed_commands() -> list[str]:
    lines = [line for page in PAGES for block in fenced(page, "") for line in block.splitlines()]
    return sorted({line.strip() for line in lines if line.startswith("elborank ")})


def test_the_help_pages_are_those_of_today() -> None:
    assert PAGE.read_text() == commands_page(), "run `make docs`"


@pytest.mark.parametrize("line", typed_commands())
def test_every_command_in_the_docs_parses(line: str) -> None:
    from flows.cli import app

    words = shlex.split(line.partition(" > ")[0])[1:]  # the rest is the shell's
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert command.make_context("elborank", words, resilient_parsing=False).params


def test_what_the_readmes_commands_write_is_ignored_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    words = [shlex.split(line) for block in fenced(ROOT / "README.md", "") for line in block.splitlines()
             if line.startswith("elborank ") and "--output" in line]  # fmt: skip
    assert words
    for line in words:
        assert f"/{Path(line[line.index('--output') + 1]).parts[0]}/" in ignored, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_python_of_the_readme_finds_the_wind_of_1048_mph(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    block, *_ = fenced(ROOT / "README.md", "python")
    assert len(block.strip().splitlines()) <= 7
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own README
    assert capsys.readouterr().out.startswith("wind_speed 1048.36, expected")


def test_the_demo_says_how_its_commands_come_to_be_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rich.console import Console

    from flows.demo import show_the_way

    scored = {"top": [{"record_id": "a|b"}], "folder": "reports/x/run=1"}
    (tmp_path / "elborank").write_text("")
    (tmp_path / "elborank").chmod(0o755)
    for path, activated in (("/nowhere", False), (str(tmp_path), True)):
        monkeypatch.setenv("PATH", path)
        show_the_way(Console(), scored)
        told = capsys.readouterr().out
        assert "  elborank explain reports/x/run=1 'a|b'" in told
        assert ("/activate" in told) != activated
