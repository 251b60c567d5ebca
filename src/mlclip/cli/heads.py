"""`mlclip heads|recipes`: what can be trained, and the settings of the documents."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from mlclip.console import console, say

if TYPE_CHECKING:
    from mlclip.heads import Choice, Head, Range
    from mlclip.settings import TrainConfig

MADE = ("width", "text_width", "token_width", "text_token_width", "segments", "recall")
"""Arguments of heads that are not people's to give: they follow from the encoder or the data."""


def heads(name: Annotated[str | None, typer.Argument(help="A head to describe.")] = None) -> None:
    """List the heads, or describe one head: what it computes, its source, its options and its training."""
    from mlclip.heads import HEADS, find_head

    if name is None:
        table = Table("head", "inputs", "outputs", "")
        for head in HEADS.values():
            built = _built(head)
            table.add_row(head.name, " ".join(built.inputs), " ".join(built.outputs), _summary(head))
        console.print(table)
        return
    head = find_head(name)
    say(f"{name}: {inspect.getdoc(head)}\n\nSource: {_sources(head.source)}")
    _settings("Options, and their defaults", _options(head))
    _settings("Defaults of its training", _training(head.defaults))
    _settings("`mlclip tune` varies", {name: _told(values) for name, values in head.search.items()})


def recipes(name: Annotated[str | None, typer.Argument(help="A recipe to describe.")] = None) -> None:
    """List the recipes for --recipe, settings from publications, or describe one."""
    from mlclip.presets import DOCUMENTS, RECIPES, find_recipe

    if name is None:
        table = Table("recipe", "head", "section", box=box.SIMPLE_HEAD)
        for one in RECIPES.values():
            table.add_row(one.name, one.recipe.head, one.section)
        console.print(table)
        for number, document in DOCUMENTS.items():
            console.print(f"{number}: {document}", highlight=False, markup=False)
        return
    found = find_recipe(name)
    from mlclip.heads import HEADS

    recipe, head = found.recipe, HEADS[found.recipe.head]
    say(f"{name}: the head {head.name}. {_summary(head)}\n\nSource: {found.source}")
    say(f"Not in the source: {found.note or 'nothing'}\nCommand: {found.command}")
    _settings("Options; all others are the defaults of the head", recipe.options)
    _settings("Training", _training(recipe.training or head.defaults))
    _settings("Thresholds", asdict(recipe.thresholds))


def _built(head: type[Head]) -> Head:
    from mlclip.heads import FeatureShapes

    return head.build(2, FeatureShapes(8, 2, 8, 2, 8))


def _summary(head: type[Head]) -> str:
    return (inspect.getdoc(head) or "").splitlines()[0]


def _sources(text: str) -> str:
    from mlclip.presets import DOCUMENTS

    return re.sub(r"\b00\d\b", lambda found: DOCUMENTS[found[0]], text)


def _options(head: type[Head]) -> dict[str, Any]:
    """The options that the head's docstring explains, with their defaults."""
    given = inspect.signature(head.__init__).parameters
    built, documented = _built(head).config, re.findall(r"^    (\w+): ", inspect.getdoc(head) or "", re.MULTILINE)
    return {
        name: built.get(name) if given[name].default is inspect.Parameter.empty else given[name].default
        for name in documented
        if name in given and name not in MADE
    }


def _training(config: TrainConfig) -> dict[str, Any]:
    return asdict(config) if config.epochs else {"epochs": 0}


def _told(values: Range | Choice) -> str:
    from mlclip.heads import Choice

    if isinstance(values, Choice):
        return ", ".join(map(str, values.values))
    each = f", for each of {values.each}" if values.each else ""
    return f"{values.low:g} to {values.high:g}{', logarithmic' * values.log}{each}"


def _settings(title: str, settings: Mapping[str, Any]) -> None:
    """One setting a line, lists one value a line; nothing where there are none."""
    if settings:
        say(f"\n{title}:")
        for name, value in settings.items():
            value = ",".join(value) if name == "members" else value
            say(f"  {name}  {value}" if not isinstance(value, list) else "\n    ".join((f"  {name}", *map(str, value))))
