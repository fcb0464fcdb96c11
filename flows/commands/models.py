"""elborank models: the registry's versions and their aliases."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import terminal
from flows.commands.options import Json

app = typer.Typer(no_args_is_help=True, help="List the registered models, or promote one.")


@app.command("list", epilog=terminal.examples("elborank models list --json"))
def models_list(json: Json = False) -> None:
    """List every version of every registered model, with its aliases."""
    from flows import registry

    terminal.show({"models": registry.list_models()}, json, terminal.models)


@app.command(
    "promote",
    epilog=terminal.examples(
        "elborank models promote nyc-weather", "elborank models promote nyc-weather --version 3"
    ),
)
def models_promote(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str | None, typer.Option(help="The version. Default: the challenger.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if it expects other columns.")] = False,
    json: Json = False,
) -> None:
    """Make a version the champion, which scheduled runs use; the one before becomes `previous`."""
    from flows import registry

    terminal.show(registry.promote(name, version, force=force), json, terminal.promoted)
