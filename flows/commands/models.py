"""elborank models: the registry's versions and their aliases."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import terminal
from flows.commands.options import HideValues, Json

app = typer.Typer(no_args_is_help=True, help="List the registered models, promote one, or go back.")


@app.command("list", epilog=terminal.examples("elborank models list --json"))
def models_list(json: Json = False) -> None:
    """List every version of every registered model, with its aliases."""
    from flows import registry

    found = {"registry": registry.registry_place(), "models": registry.list_models()}
    terminal.show(found, json, terminal.models)


@app.command(
    "show",
    epilog=terminal.examples(
        "elborank models show nyc-weather", "elborank models show nyc-weather --version 3"
    ),
)
def models_show(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str | None, typer.Option(help="The version. Default: the champion.")] = None,
    hide_values: HideValues = False,
    json: Json = False,
) -> None:
    """Show the model card: data, likelihoods, held-out ELBO, calibration, and each column in training."""
    from flows import descriptions, registry

    chosen = "@champion" if version is None else f"/{version}"
    found = registry.resolve(f"models:/{registry.check_name(name)}{chosen}")
    terminal.show(descriptions.of_model(found, hide_values=hide_values), json, terminal.model_card)


@app.command(
    "promote",
    epilog=terminal.examples(
        "elborank models promote nyc-weather", "elborank models promote nyc-weather --version 3"
    ),
)
def models_promote(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str | None, typer.Option(help="The version. Default: the challenger.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Records to judge by. Default: those that it was trained on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Without any check.")] = False,
    json: Json = False,
) -> None:
    """Make a version the champion, which scheduled runs use, if the checks pass; the one before: `previous`.

    It has to load, score finitely and as in training, and be no worse than its linear start and the champion
    on records that neither was trained on, nor at finding planted errors. Refused (exit 3), the champion
    stays.
    """
    from flows import promotion

    terminal.show(promotion.promote(name, version, data=data, force=force), json, terminal.promoted)


@app.command("rollback", epilog=terminal.examples("elborank models rollback nyc-weather"))
def models_rollback(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    json: Json = False,
) -> None:
    """Make `previous` the champion again, at once; the champion of now becomes `previous`."""
    from flows import registry

    terminal.show(registry.rollback(name), json, terminal.promoted)


@app.command("checks", epilog=terminal.examples("elborank models checks nyc-weather --version 3"))
def models_checks(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str, typer.Option(help="The version.")],
    json: Json = False,
) -> None:
    """Show why a version was promoted or refused."""
    from flows import registry

    terminal.show(registry.read_decision(name, version), json, terminal.decision)
