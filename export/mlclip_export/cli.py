"""The command line `mlclip-export`: a thin caller of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mlclip.cli.options import CacheOption, RunDataOption, is_given, run_data
from mlclip.console import console, run_app, say
from mlclip.encoders import DEFAULT_CACHE
from mlclip.errors import ExportError
from mlclip.files import check_output, write_lines
from mlclip_export.options import Accelerator, ConfigOptions, ExportOptions, Form, Format, Precision, ReduceOptions

if TYPE_CHECKING:
    from mlclip.checkpoint import Run
    from mlclip_export.export import Report
    from mlclip_export.reduce import Judged

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    context: typer.Context,
    head: Annotated[list[str] | None, typer.Option(help="Name of a run folder in --runs; repeatable.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Path of a run folder; repeatable.")] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name of a head in the repository; one for each --head, then one for each --run."),
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="Folder of runs. All are exported unless --head or --run is given.")
    ] = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option(help="The model repository, or the folder of taggers. \\[default: model_repository, or taggers]"),
    ] = None,
    form: Annotated[
        Form, typer.Option("--as", help="`tagger` writes each head as one ONNX file with the lists that taggers have.")
    ] = "repository",
    card: Annotated[bool, typer.Option("--card", help="Also write a model card of each head, NAME_card.md.")] = False,
    format: Annotated[
        Format, typer.Option(help="`tensorrt` also builds TensorRT plans, which needs a GPU on this machine.")
    ] = "onnx",
    accelerator: Annotated[
        Accelerator, typer.Option(help="Which GPU variant is the default config. All variants are written.")
    ] = "none",
    fp16: Annotated[bool, typer.Option("--fp16", help="Let TensorRT compute in half precision.")] = False,
    engine_cache: Annotated[
        str, typer.Option(help="Folder on the server for TensorRT engines; it must exist.")
    ] = "/engines",
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="Largest batch that Triton forms.")] = 64,
    max_bytes: Annotated[
        int, typer.Option(min=1, max=256 << 20, help="Largest image file that the server decodes.")
    ] = 64 << 20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Width times height of the largest image that the server decodes.")
    ] = 40_000_000,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest accepted difference from torch.")] = 1e-4,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Precision of the encoders on the CPU; int8 and bf16 are for OpenVINO, and pass a gate first."
        ),
    ] = "fp32",
    data: RunDataOption = None,
    cache: CacheOption = DEFAULT_CACHE,
    calibration: Annotated[int, typer.Option(min=1, help="Training images that calibrate int8.")] = 300,
    max_map_loss: Annotated[
        float, typer.Option(min=0, help="Points of validation mAP that a head may lose by --precision.")
    ] = 0.5,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Validation labels selected before and after, as a share of those selected at all."
        ),
    ] = 0.9,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train heads again on the reduced encoder's features, where that helps.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Export trained heads to a Triton model repository.

    Every graph is compared with torch. If one differs by more than --tolerance, nothing is written. Heads that
    are already in the repository stay.
    """
    if fp16 and accelerator == "cuda":
        raise typer.BadParameter("onnxruntime's CUDA accelerator has no half precision: use --accelerator tensorrt")
    if precision != "fp32" and format == "tensorrt":
        raise typer.BadParameter("plans have --fp16; for --precision use --accelerator tensorrt")
    reduced = [
        option for option in ("calibration", "max_map_loss", "min_agreement", "refit") if is_given(context, option)
    ]
    if precision == "fp32" and reduced:
        raise typer.BadParameter(f"--{reduced[0].replace('_', '-')} belongs to --precision int8 or bf16")
    out = out or Path("taggers" if form == "tagger" else "model_repository")
    check_output(out, run or ())
    if form == "tagger":
        for option in ("format", "accelerator", "fp16", "precision", "card"):
            if is_given(context, option):
                raise typer.BadParameter(f"--{option} belongs to a repository, not to --as tagger")
    chosen = _choose(head or [], run or [], name or [], runs)
    if form == "tagger":
        _export_taggers(chosen, out, tolerance)
        return
    from mlclip_export.export import export_runs

    options = ExportOptions(
        format=format,
        accelerator=accelerator,
        tolerance=tolerance,
        configs=ConfigOptions(max_batch, fp16, engine_cache, max_bytes=max_bytes, max_pixels=max_pixels),
    )
    reduce = None
    if precision != "fp32":
        from mlclip_export.reduce import Reduction

        limits = ReduceOptions(precision, calibration, max_map_loss, min_agreement, refit)
        sets = {name: run_data(run.training, data) for name, run in chosen.items()}
        reduce = Reduction(limits, sets, cache, on_judged=_show_judged)
    with console.status("export") as status:
        report = export_runs(chosen, out, options, reduce=reduce, on_step=lambda step: status.update(f"export {step}"))
    _show(report, out)
    if card:
        from mlclip_export.model_card import model_card

        for called, each in chosen.items():
            write_lines(out / f"{called}_card.md", [model_card(called, each)])


def main() -> None:
    """Run the command line."""
    run_app(app)


def _choose(heads: list[str], folders: list[Path], names: list[str], runs: Path) -> dict[str, Run]:
    chosen = [*(runs / head for head in heads), *folders] or sorted(path.parent for path in runs.glob("*/config.json"))
    if not chosen:
        raise ExportError(
            f"there is no run in {runs}: train a head (`mlclip train --help`) or name its folder with --run"
        )
    if names and len(names) != len(chosen):
        raise typer.BadParameter(f"{len(names)} names for {len(chosen)} heads", param_hint="--name")
    called = names or [folder.resolve().name for folder in chosen]
    if len(set(called)) < len(called):
        raise typer.BadParameter(f"several heads would have the same name ({', '.join(called)}): give each a --name")
    from mlclip.checkpoint import load_run

    return {name: load_run(folder) for name, folder in zip(called, chosen, strict=True)}


def _export_taggers(chosen: Mapping[str, Run], out: Path, tolerance: float) -> None:
    from mlclip_export.tagger import export_tagger

    for name, run in chosen.items():
        with console.status(f"export {name}"):
            export_tagger(name, run, out / name, tolerance=tolerance)
        say(f"wrote {out / name}: model.onnx, selected_tags.csv, thresholds.csv and the model card README.md")


def _show_judged(judged: Sequence[Judged]) -> None:
    left = judged[0].left
    table = Table(
        "head", "reads", "runtime", "mAP float32", "mAP reduced", "label agreement", "",
        title=f"in float32: {left}" if left else None,
    )  # fmt: skip
    for one in judged:
        figures = (f"{100 * one.before:.2f}", f"{100 * one.after:.2f}", f"{one.agreement:.3f}")
        table.add_row(one.head, ", ".join(one.reads), one.runtime, *figures, "passed" if one.passed else "refused")
    console.print(table)


def _show(report: Report, out: Path) -> None:
    differences = Table("model", "output", "largest deviation from torch")
    for difference in report.differences:
        differences.add_row(difference.model, difference.output, f"{difference.value:.2g}")
    console.print(differences)
    models = Table("model", "version", "", "MB")
    for model in report.models:
        models.add_row(
            model.name, str(model.version), "written" if model.changed else "unchanged", f"{model.size / 1e6:.2f}"
        )
    for gone in report.removed:
        models.add_row(gone, "", "removed", "")
    console.print(models)
    say(f"`mlclip-serve {out}` serves it")


if __name__ == "__main__":
    main()
