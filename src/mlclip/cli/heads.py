"""`mlclip heads|recipes`: what can be trained, and the settings of the documents."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer
from rich.table import Table

from mlclip.console import console, say


def heads(name: Annotated[str | None, typer.Argument(help="A head to describe.")] = None) -> None:
    """List the heads, or describe one head and its options."""
    from mlclip.heads import HEADS, FeatureShapes, find_head

    if name is None:
        table = Table("head", "inputs", "outputs", "")
        for head in HEADS.values():
            built = head.build(2, FeatureShapes(8, 2, 8, 2, 8))
            summary = (inspect.getdoc(head) or "").splitlines()[0]
            table.add_row(head.name, " ".join(built.inputs), " ".join(built.outputs), summary)
        console.print(table)
    else:
        head = find_head(name)
        say(f"{name}: {inspect.getdoc(head)}")
        console.print(f"\nDefaults of its training: {head.defaults}")


def recipes() -> None:
    """List the recipes for --recipe: settings from publications."""
    from mlclip.presets import RECIPES

    table = Table("recipe", "head", "source", "not in the source")
    for recipe in RECIPES.values():
        table.add_row(recipe.name, recipe.recipe.head, recipe.source, recipe.note)
    console.print(table)
