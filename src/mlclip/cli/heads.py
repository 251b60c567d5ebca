"""`mlclip heads|recipes`: what can be trained, and how the documents did it."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer
from rich.table import Table

from mlclip.console import console
from mlclip.errors import TrainError


def heads(name: Annotated[str | None, typer.Argument(help="One head, with its own options.")] = None) -> None:
    """List the heads; with a name, say what that head computes and which options it has."""
    from mlclip.heads import HEADS

    if name is None:
        table = Table("head", "reads", "gives", "")
        for head in HEADS.values():
            table.add_row(head.name, *_signature(head.name), _summary(head))
        console.print(table)
    elif name in HEADS:
        console.print(f"{name}: {inspect.getdoc(HEADS[name])}", highlight=False, markup=False)
        console.print(f"\nTraining, where no option says otherwise: {HEADS[name].defaults}", markup=False)
    else:
        raise TrainError(f"unknown head {name!r}: choose one of {', '.join(HEADS)}")


def recipes() -> None:
    """List the named recipes with the document each follows."""
    from mlclip.presets import RECIPES

    table = Table("recipe", "head", "follows", "where the document is silent")
    for recipe in RECIPES.values():
        table.add_row(recipe.name, recipe.recipe.head, recipe.source, recipe.note)
    console.print(table)


def _summary(head: type) -> str:
    return (inspect.getdoc(head) or "").splitlines()[0]


def _signature(name: str) -> tuple[str, str]:
    from mlclip.heads import FeatureShapes, build_head

    head = build_head(name, 2, FeatureShapes(8, 2, 8, 2, 8))
    return " ".join(head.inputs), " ".join(head.outputs)
