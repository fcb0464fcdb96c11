"""Writes docs/commands.md from the command line's own --help: `make docs`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
INTRODUCTION = """# Commands

Each page is the command's own `--help` in a terminal of 80 columns (`make docs` writes this file).

Exit codes: 0 done, 2 bad input (one line on standard error: file, column, row, what to do), 3 refused,
so that nothing published is overwritten. A command that cannot be parsed (an option or a command that is
not there, a number out of its range) shows its usage and the error in a box instead, also with 2. With
`--json` standard output holds one JSON document and nothing else.

| variable | meaning |
|---|---|
| `ELBORANK_HOME` | where datasets, models' copies and the embedded servers' files go; default `.elborank` |
| `MLFLOW_TRACKING_URI` | the model registry; default a SQLite file in `ELBORANK_HOME` |
| `PREFECT_API_URL` | a Prefect server: with it, commands run as flow runs there |

"""


def commands_page() -> str:
    """The page as it should be now."""
    os.environ.update(COLUMNS="80", TERM="dumb", NO_COLOR="1")
    from typer.main import get_command
    from typer.testing import CliRunner

    from flows.cli import app

    names: list[list[str]] = [[]]
    group = get_command(app)
    for name, command in getattr(group, "commands", {}).items():
        names.append([name])
        names += [[name, inner] for inner in getattr(command, "commands", {})]
    pages = []
    for words in names:
        result = CliRunner().invoke(app, [*words, "--help"], prog_name="elborank")
        text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
        body = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
        pages.append(f"## {' '.join(['elborank', *words])}\n\n```\n{body}\n```\n")
    return INTRODUCTION + "\n".join(pages)


if __name__ == "__main__":
    PAGE.write_text(commands_page())
    sys.stdout.write(f"{PAGE} written\n")
