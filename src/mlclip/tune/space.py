"""What a search varies: names, the values they may take, and how a recipe takes them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlclip.checkpoint import Run
from mlclip.errors import TrainError
from mlclip.heads import Choice, Range
from mlclip.settings import Recipe, TrainConfig, json_or_text
from mlclip.training.extend import recorded_training

Space = Mapping[str, Range | Choice]
Settings = dict[str, Any]  # name to value: an option of the head, `training.NAME` or `training.loss_options.NAME`


def base_recipe(run: Run) -> Recipe:
    """The recipe that a run was trained by, from which a search starts.

    Raises TrainError if the run does not record it, or if each trial would be a full fine-tune of an encoder.
    """
    if run.encoder.own:
        raise TrainError(f"`{run.head_name}` trains its encoder, which takes too long to search: set options by hand")
    options = run.training.get("options")
    if options is None:
        raise TrainError("this run does not say which options its head had: train it again, then tune it")
    return Recipe(run.head_name, _without_files(options, run.head.config), recorded_training(run))


def _without_files(options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with the run's own copy in place of files of contexts or translations."""
    kept = dict(options)
    if {"contexts", "translations"} & options.keys():
        pairs = zip(config["contexts"], config["weights"], strict=True)
        kept["contexts"] = [f"{context}\t{weight!r}" for context, weight in pairs]
    if "translations" in options:
        kept["translations"] = config["translations"]
    return kept


def apply(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Put settings into a recipe, in place of its own."""
    options, training, changed = dict(recipe.options), recipe.training or TrainConfig(), dict[str, Any]()
    for name, value in settings.items():
        match name.split("."):
            case ["training", "loss_options", key]:
                changed["loss_options"] = changed.get("loss_options", training.loss_options) | {key: value}
            case ["training", key]:
                changed[key] = value
            case _:
                options[name] = value
    return replace(recipe, options=options, training=replace(training, **changed))


def space_of(run: Run, vary: Sequence[str] = ()) -> Space:
    """What a search of this run varies: what its head declares, or what is named instead.

    `parse_range` reads what is named. A range with `each` becomes one range per item: `weights[0]`, `weights[1]`, ...;
    `fold` joins their values. Raises TrainError if nothing is declared and nothing named.
    """
    declared: Space = dict(parse_range(text) for text in vary) if vary else run.head.search
    if not declared:
        raise TrainError(f"`{run.head_name}` declares nothing to search: say what to vary, as --vary training.lr=A:B")
    space: dict[str, Range | Choice] = {}
    for name, values in declared.items():
        if isinstance(values, Range) and values.each:
            one = replace(values, each=None)
            space |= {f"{name}[{n}]": one for n in range(len(run.head.config[values.each]))}
        else:
            space[name] = values
    return space


def fold(flat: Mapping[str, Any]) -> Settings:
    """Join `name[0]`, `name[1]`, ... to lists: `{"weights[0]": 1, "weights[1]": 2}` is `{"weights": [1, 2]}`."""
    settings: Settings = {}
    for name, value in flat.items():
        item = re.fullmatch(r"(.+)\[\d+\]", name)
        if item:
            settings.setdefault(item[1], []).append(value)
        else:
            settings[name] = value
    return settings


def unfold(settings: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The reverse of `fold`, for the names of a space."""
    flat = {}
    for name in space:
        item = re.fullmatch(r"(.+)\[(\d+)\]", name)
        flat[name] = settings[item[1]][int(item[2])] if item else settings[name]
    return flat


def parse_range(text: str) -> tuple[str, Range | Choice]:
    """Read `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log`, `NAME=A,B,C`, or a JSON list, for values that hold `,` or `:`.

    Two whole numbers make a range of whole numbers. The values of a choice are read as JSON if they are valid JSON.
    """
    name, _, values = text.partition("=")
    ends, listed = values.split(":"), json_or_text(values)
    try:
        if name and listed and isinstance(listed, list):
            return name.replace("-", "_"), Choice(tuple(listed))
        if len(ends) == 1 and name and values:
            return name.replace("-", "_"), Choice(tuple(json_or_text(value) for value in values.split(",")))
        low, high = float(ends[0]), float(ends[1])
        if not name or ends[2:] not in ([], ["log"]) or not low < high or (len(ends) == 3 and low <= 0):
            raise ValueError
        whole = all(isinstance(json_or_text(end), int) for end in ends[:2])
        return name.replace("-", "_"), Range(low, high, log=len(ends) == 3, integer=whole)
    except (ValueError, IndexError):
        raise TrainError(
            f"--vary {text!r}: write NAME=LOW:HIGH, NAME=LOW:HIGH:log (above 0), NAME=A,B,C or NAME=[...]"
        ) from None
