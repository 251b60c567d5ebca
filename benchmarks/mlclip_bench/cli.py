"""The command line `mlclip-bench`: a thin caller of the studies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mlclip.console import console, run_app
from mlclip.errors import ResultsError
from mlclip_bench.heads.cli import compare
from mlclip_bench.load.cli import load
from mlclip_bench.peers.cli import peers

if TYPE_CHECKING:
    from mlclip_bench.scaling.run import Through, Watch

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def scaling(
    context: typer.Context,
    classes: Annotated[str, typer.Option(help="Numbers of classes N.")] = "46,80,1000",
    groups: Annotated[str, typer.Option(help="Groups K of `mld`; `full` is K = N.")] = "8,100,full",
    heads: Annotated[str, typer.Option(help="Heads, or `self-attention`.")] = "",
    encoder: Annotated[str, typer.Option(help="An open_clip name, with random weights, or a folder.")] = "ViT-B-32",
    pretrained: Annotated[str | None, typer.Option(help="Weights of the encoder; speed does not need any.")] = None,
    batch: Annotated[str, typer.Option(help="Images a call.")] = "1,8,32",
    label_sets: Annotated[
        Path | None, typer.Option(help="Data whose label sets `powerset` gets; else the project's counts.")
    ] = None,
    references: Annotated[int, typer.Option(min=32, help="Of the neighbour heads.")] = 10_000,
    through: Annotated[str, typer.Option(help="`ort`: graphs alone; `triton`: a real server.")] = "ort",
    threads: Annotated[int, typer.Option(min=0, help="Of onnxruntime; 0: all cores, in a server its default.")] = 0,
    minutes: Annotated[float, typer.Option(min=0, help="No round starts that ends later; three always run.")] = 9,
    out: Annotated[Path, typer.Option(help="Folder for raw lines, figures, pictures and report.")] = Path(
        "runs/scaling"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")] = False,
    derive: Annotated[
        bool, typer.Option("--derive", help="Measure nothing: figures and report of --out anew.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure how the cost of each head grows with the number of classes, alone and behind the encoder."""
    if context.invoked_subcommand is not None:
        return
    from mlclip_bench.scaling.run import Settings, run

    if not derive:
        numbers = _numbers("--classes", classes)
        sets, source = _label_sets(label_sets, numbers)
        settings = Settings(
            classes=numbers,
            groups=_groups(groups),
            heads=_heads(heads),
            batches=_numbers("--batch", batch),
            encoder=encoder,
            pretrained=pretrained,
            label_sets=sets,
            label_sets_of=source,
            references=references,
            through=_through(through),
            threads=threads,
            minutes=minutes,
        )
        try:
            with _watched() as watch:
                run(settings, out, watch, resume=resume)
        except KeyboardInterrupt:
            console.print("stopped; what was measured is kept, --resume goes on from there")
            _derive(out, partial=True)
            raise
    _derive(out)


@app.command()
def tables(
    files: Annotated[list[Path], typer.Argument(help="Markdown files with `<!-- NAME -->` … `<!-- end -->`.")],
    results: Annotated[Path, typer.Option(help="The committed results.")] = Path("benchmarks/results"),
    debug: Debug = False,
) -> None:
    """Write the tables of README files anew from measured results."""
    from mlclip_bench.readme import write_tables

    changed = write_tables(files, results)
    console.print(f"changed: {', '.join(map(str, changed)) or 'nothing'}", soft_wrap=True)


@app.command()
def agree(
    first: Annotated[Path, typer.Argument(help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(help="Folder of a run of the same.")],
    debug: Debug = False,
) -> None:
    """Say whether two runs agree within their intervals."""
    from mlclip_bench.scaling.agreement import compare
    from mlclip_bench.scaling.derive import Derived
    from mlclip_bench.scaling.results import Raw

    console.print(str(compare(Derived(Raw(first)), Derived(Raw(second)))), highlight=False, soft_wrap=True)


app.command("heads")(compare)
app.command("load")(load)
app.command("peers")(peers)


def main() -> None:
    """Run the command line."""
    run_app(app)


def _derive(folder: Path, *, partial: bool = False) -> None:
    from mlclip_bench.scaling.derive import Derived
    from mlclip_bench.scaling.pictures import draw
    from mlclip_bench.scaling.report import write_report
    from mlclip_bench.scaling.results import Raw

    raw = Raw(folder)
    if partial and not raw.of("round"):
        return
    derived = Derived(raw)
    derived.save()
    batches = derived.asked["batches"]
    batch = 8 if 8 in batches else batches[-1]
    draw(derived, batch)
    console.print(f"wrote {write_report(derived, batch)}", soft_wrap=True)


def _label_sets(path: Path | None, classes: tuple[int, ...]) -> tuple[dict[int, int], str]:
    from mlclip.data import read_dataset
    from mlclip_bench.scaling.label_sets import at_classes, count_sets, shipped_counts, widest

    if path is not None:
        return count_sets(read_dataset(str(path)), classes), path.name
    name, counts = widest(shipped_counts())
    return at_classes(counts, classes), name


def _numbers(option: str, words: str) -> tuple[int, ...]:
    try:
        numbers = tuple(sorted({int(word) for word in words.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise typer.BadParameter(f"wants whole numbers, such as 46,80,1000, not {words!r}", param_hint=option)
    return numbers


def _groups(words: str) -> tuple[int | None, ...]:
    given = words.split(",")
    numbers = _numbers("--groups", ",".join(word for word in given if word != "full") or "1")
    chosen = numbers if set(given) != {"full"} else ()
    return (*chosen, *((None,) if "full" in given else ()))


def _through(word: str) -> Through:
    found: dict[str, Through] = {"ort": "onnxruntime", "triton": "triton"}
    if word not in found:
        raise typer.BadParameter(f"wants ort or triton, not {word!r}", param_hint="--through")
    return found[word]


def _heads(words: str) -> tuple[str, ...]:
    from mlclip_bench.scaling.cases import HEADS_BY_DEFAULT, check_head

    heads = tuple(dict.fromkeys(words.split(","))) if words else HEADS_BY_DEFAULT
    try:
        for head in heads:
            check_head(head)
    except ResultsError as error:
        raise typer.BadParameter(str(error), param_hint="--heads") from error
    return heads


@contextmanager
def _watched() -> Iterator[Watch]:
    """Progress on stderr: steps, then turns of the present round."""
    from mlclip_bench.scaling.run import Watch

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        shown = bar.add_task("")

        def step(title: str, done: int, total: int) -> None:
            bar.update(shown, description=title, completed=done, total=total or None)

        def turn(number: int, done: int, total: int) -> None:
            step(f"round {number}", done, total)

        yield Watch(step, turn)


if __name__ == "__main__":
    main()
