"""`mlclip-bench` without a subcommand, and `mlclip-bench agree`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlclip.console import console
from mlclip.errors import ResultsError
from mlclip_bench.kit.options import DebugOption, DeriveOption, ResumeOption, numbers, numbers_or
from mlclip_bench.kit.progress import progress

if TYPE_CHECKING:
    from mlclip_bench.scaling.run import Through

WHOLE_NUMBERS = "whole numbers such as 46,80,1000"


def scaling(
    context: typer.Context,
    classes: Annotated[str, typer.Option(help="Numbers of classes N.")] = "46,80,1000",
    groups: Annotated[str, typer.Option(help="Groups K of `mld`; `full` is K = N.")] = "8,100,full",
    heads: Annotated[str, typer.Option(help="Heads, or `self-attention`.")] = "",
    encoder: Annotated[str, typer.Option(help="An open_clip name, with random weights, or a folder.")] = "ViT-B-32",
    pretrained: Annotated[str | None, typer.Option(help="Weights of the encoder; speed does not need any.")] = None,
    batch: Annotated[str, typer.Option(help="Images per call.")] = "1,8,32",
    label_sets: Annotated[
        Path | None, typer.Option(help="Data whose label sets `powerset` gets; by default counts of the project's.")
    ] = None,
    references: Annotated[int, typer.Option(min=32, help="Reference images of the neighbour heads.")] = 10_000,
    through: Annotated[str, typer.Option(help="`ort`: graphs alone; `triton`: a real server.")] = "ort",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of onnxruntime; 0: all cores, or the default of a server.")
    ] = 0,
    minutes: Annotated[
        float, typer.Option(min=0, help="No round starts that would end later, except the first three.")
    ] = 9,
    out: Annotated[Path, typer.Option(help="Folder for raw lines, values, figures and report.")] = Path("runs/scaling"),
    resume: ResumeOption = False,
    derive: DeriveOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure how the cost of each head grows with the number of classes, alone and behind the encoder."""
    if context.invoked_subcommand is not None:
        return
    if not derive:
        counts, batches = _numbers("--classes", classes), _numbers("--batch", batch)
        ways, how = numbers_or("full", "--groups", groups, WHOLE_NUMBERS), _through(through)
        from mlclip_bench.scaling.run import Settings, run

        sets, source = _label_sets(label_sets, counts)
        settings = Settings(
            classes=counts,
            groups=ways,
            heads=_heads(heads),
            batches=batches,
            encoder=encoder,
            pretrained=pretrained,
            label_sets=sets,
            label_sets_of=source,
            references=references,
            through=how,
            threads=threads,
            minutes=minutes,
        )
        try:
            with progress() as on_step:
                run(settings, out, on_step, resume=resume)
        except KeyboardInterrupt:
            console.print("stopped; what was measured is kept, --resume continues from there")
            _derive(out, partial=True)
            raise
    _derive(out)


def agree(
    first: Annotated[Path, typer.Argument(help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(help="Folder of another run with the same settings.")],
    debug: DebugOption = False,
) -> None:
    """Say whether two runs agree within their intervals."""
    from mlclip_bench.scaling.agreement import compare
    from mlclip_bench.scaling.derive import Derived
    from mlclip_bench.scaling.results import Results

    compared = compare(Derived(Results(first)), Derived(Results(second)))
    console.print(str(compared), highlight=False, soft_wrap=True)


def _derive(folder: Path, *, partial: bool = False) -> None:
    from mlclip_bench.scaling.derive import Derived
    from mlclip_bench.scaling.figures import draw_figures
    from mlclip_bench.scaling.report import write_report
    from mlclip_bench.scaling.results import Results

    results = Results(folder)
    if partial and not results.of("round"):
        return
    derived = Derived(results)
    derived.save()
    batches = derived.asked["batches"]
    batch = 8 if 8 in batches else batches[-1]
    draw_figures(derived, batch)
    console.print(f"wrote {write_report(derived, batch)}", soft_wrap=True)


def _label_sets(path: Path | None, classes: tuple[int, ...]) -> tuple[dict[int, int], str]:
    from mlclip.data import read_dataset
    from mlclip_bench.scaling.label_sets import at_classes, count_sets, shipped_counts, widest

    if path is not None:
        return count_sets(read_dataset(str(path)), classes), path.name
    name, counts = widest(shipped_counts())
    return at_classes(counts, classes), name


def _numbers(option: str, text: str) -> tuple[int, ...]:
    return tuple(sorted(numbers(option, text, int, WHOLE_NUMBERS)))


def _through(word: str) -> Through:
    found: dict[str, Through] = {"ort": "onnxruntime", "triton": "triton"}
    if word not in found:
        raise typer.BadParameter(f"takes ort or triton, not {word!r}", param_hint="--through")
    return found[word]


def _heads(text: str) -> tuple[str, ...]:
    from mlclip_bench.scaling.cases import HEADS_BY_DEFAULT, check_head

    heads = tuple(dict.fromkeys(text.split(","))) if text else HEADS_BY_DEFAULT
    try:
        for head in heads:
            check_head(head)
    except ResultsError as error:
        raise typer.BadParameter(str(error), param_hint="--heads") from error
    return heads
