"""The command `elborank`: one verb for each thing that one does with a model of a table.

The verbs stand in `flows/commands/`. Everything heavy is imported inside them, so that `--help` answers at
once. Exit codes: 0 done, 2 bad input, 3 refused. With `--json` a command prints one JSON document on standard
output and nothing else there.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from flows import terminal
from flows.commands import deploy, generate, ingest, models, reports, score, train
from vae_core.errors import InputError, Refused

__all__ = ["app", "main"]

app = typer.Typer(
    name="elborank",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Rank the records of a table by how unlikely they are under a variational autoencoder.\n\n"
    "A record's ELBO is a lower bound on its log-probability; the lowest ones come first in the report.",
    epilog=terminal.examples(
        "elborank train data/nyc_weather/ --from 2013-03-01 --name nyc-weather --id origin --id time_hour",
        "elborank score data/nyc_weather/ --until 2013-03-01 --model models:/nyc-weather@champion",
        "elborank report reports/nyc-weather/run=.../ --top 10",
    ),
)
for group in (ingest, train, score, reports, generate, models, deploy):
    terminal.flow_help(group.app)
for command in (ingest, train, score, reports, generate):
    app.add_typer(command.app)
app.add_typer(models.app, name="models")
app.add_typer(deploy.app)

# Else the interpreter, before it ends, looks for garbage in all that was imported: 2 CPU-seconds.
atexit.register(gc.freeze)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what its user can mend becomes one line on standard error and an exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="elborank")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except InputError as error:
        return terminal.fail(str(error), 2)
    except Refused as error:
        return terminal.fail(str(error), 3)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return terminal.fail("Out of memory. Give fewer workers, or a machine with more.", 2)
    except OSError as error:
        place = f"{Path(os.fsdecode(error.filename))}: " if error.filename else ""
        return terminal.fail(f"{place}{error.strerror or error}.", 2)
    except KeyboardInterrupt:
        return terminal.fail("Stopped. The same command takes up the finished work.", 130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
