"""The progress bar of all studies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Step = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are (0: unknown)."""


@contextmanager
def progress() -> Iterator[Step]:
    """Show a bar on stderr, where that is a terminal; the bar shows up with its first step."""
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", visible=False)

        def step(title: str, done: int = 0, total: int = 0) -> None:
            bar.update(task, description=escape(title), completed=done, total=total or None, visible=True)

        yield step
