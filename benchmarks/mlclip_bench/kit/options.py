"""Options that several studies have, and lists of numbers on the command line."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
DeriveOption = Annotated[
    bool, typer.Option("--derive", help="Measure nothing: derive everything again from the raw lines in --out.")
]
Number = TypeVar("Number", int, float)
REJECTED = 3  # exit code where something was left out


def numbers(option: str, text: str, kind: Callable[[str], Number], example: str) -> tuple[Number, ...]:
    """Read a list of positive numbers, separated by commas, each once; anything else raises typer.BadParameter."""
    try:
        values = tuple(dict.fromkeys(kind(word) for word in text.split(",")))
        if all(0 < value < float("inf") for value in values):
            return values
    except ValueError:
        pass
    raise typer.BadParameter(f"takes {example}, not {text!r}", param_hint=option)


def numbers_or(word: str, option: str, text: str, example: str) -> tuple[int | None, ...]:
    """Read a list of positive whole numbers in which `word`, which becomes None, may stand; None comes last."""
    words = text.split(",")
    counts = [one for one in words if one != word]
    found = numbers(option, ",".join(counts), int, example) if counts else ()
    return (*found, None) if word in words else found
