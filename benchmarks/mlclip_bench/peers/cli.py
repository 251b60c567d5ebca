"""`mlclip-bench peers`: the same images through what people would use instead."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from mlclip.console import console
from mlclip.errors import DataError
from mlclip_bench.kit.options import REJECTED, DebugOption, DeriveOption
from mlclip_bench.kit.progress import progress
from mlclip_bench.peers.catalogue import PEERS, Peer, PeerError, choose
from mlclip_bench.peers.environments import DEFAULT_ENVS, interpreter, is_built

if TYPE_CHECKING:
    from mlclip_bench.peers.derive import Results
    from mlclip_bench.peers.measure import Plan


def peers(
    images: Annotated[list[Path] | None, typer.Option(help="Image file or folder; repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images per round, drawn at random.")] = 128,
    rounds: Annotated[
        int, typer.Option(min=1, help="Number of rounds; every peer gets all images once per round.")
    ] = 9,
    only: Annotated[str | None, typer.Option(help=f"Some of {', '.join(PEERS)}, separated by commas.")] = None,
    encoder: Annotated[str, typer.Option(help="An open_clip model with a ViT, or an encoder folder.")] = "ViT-B-32",
    pretrained: Annotated[str | None, typer.Option(help="Tag or file of its weights, or `random`.")] = None,
    classes: Annotated[int, typer.Option(min=1, help="Labels of the served head.")] = 46,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch, for peers that build their own.")] = 32,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at the server.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the choice of images and their order.")] = 0,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds for any one answer of a peer.")] = 600.0,
    envs: Annotated[Path, typer.Option(help="Folder of the peers' environments and weights.")] = DEFAULT_ENVS,
    out: Annotated[Path, typer.Option(help="Folder for peers.jsonl, peers.json and peers.md.")] = Path("runs/peers"),
    derive: DeriveOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare with open_clip, sentence-transformers, infinity-emb and perf_analyzer: images/s as ratios.

    Each peer gets a virtual environment of its own in --envs, which pip builds if it does not exist. A peer that
    cannot be installed or loaded is reported with its error; then the exit code is 3.
    """
    from mlclip_bench.peers.derive import Results

    results = Results(out)
    if derive:
        _derive(results)
        return
    try:
        chosen = choose(only)
    except PeerError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    results.check_new("--derive reports it")
    from mlclip_bench.peers.measure import Plan

    plan = Plan(_draw(images or [Path("demo/data/images")], count, seed), rounds, batch, concurrency, seed, deadline)
    weights = pretrained or ("random" if encoder == "ViT-B-32" else None)
    try:
        _measure(plan, chosen, results, envs, (encoder, weights), classes)
    except KeyboardInterrupt:
        if results.lines():
            _derive(results)
        raise
    derived = _derive(results)
    if all(peer["images_per_second"] is None for peer in derived["peers"].values()):
        raise PeerError(f"no peer could be measured: see {results.folder / 'peers.md'}")
    if any(peer["error"] for peer in derived["peers"].values()):
        raise typer.Exit(REJECTED)


def _measure(
    plan: Plan, chosen: tuple[Peer, ...], results: Results, envs: Path, encoder: tuple[str, str | None], classes: int
) -> None:
    from mlclip_bench.peers.material import prepare
    from mlclip_bench.peers.measure import measure, setting

    pythons, failures = _install(chosen, envs)
    with console.status("make") as status:
        material = prepare(*encoder, classes, envs / "material", on_step=lambda step: status.update(f"make {step}"))
    results.append(setting(plan, material, chosen, classes))
    for name, error in failures.items():
        results.append({"kind": "failed", "peer": name, "stage": "install", "error": error})
    with progress() as on_step:

        def on_line(line: dict[str, Any]) -> None:
            if line["kind"] == "time":
                on_step(f"round {line['round'] + 1}: {line['peer']}", line["round"], plan.rounds)
            else:
                console.print(_summary(line), soft_wrap=True, highlight=False)

        measure(plan, pythons, material, results, on_line)


def _install(chosen: tuple[Peer, ...], envs: Path) -> tuple[dict[Peer, Path], dict[str, str]]:
    pythons: dict[Peer, Path] = {}
    failures: dict[str, str] = {}
    for peer in chosen:
        try:
            if is_built(peer, envs):
                pythons[peer] = interpreter(peer, envs)
                continue
            with console.status(f"install {peer.name}: {escape(', '.join(peer.requirements))}"):
                pythons[peer] = interpreter(peer, envs)
            console.print(f"installed {peer.name} in {envs / peer.name}", highlight=False, soft_wrap=True)
        except PeerError as error:
            failures[peer.name] = str(error)
            console.print(f"{peer.name}: {error}", highlight=False, soft_wrap=True)
    return pythons, failures


def _draw(paths: list[Path], count: int, seed: int) -> tuple[Path, ...]:
    """Draw images below some paths; files that cannot be decoded are skipped, since they would stop every peer."""
    from mlclip_client.inputs.folders import find_images

    from mlclip_bench.peers.measure import shuffled

    found = shuffled([path for path in find_images(paths) if path.is_file()], seed)
    drawn = tuple(islice(filter(_decodes, found), count))
    if not drawn:
        raise DataError(f"no images in {', '.join(map(str, paths))}: name files or folders with --images")
    return drawn


def _decodes(path: Path) -> bool:
    from mlclip_client.pixels import ImageError, decode

    try:
        decode(path.read_bytes())
    except (ImageError, OSError):
        return False
    return True


def _summary(line: Mapping[str, Any]) -> str:
    if line["kind"] == "failed":
        return f"{line['peer']} failed ({line['stage']}): {line['error']}"
    if line["kind"] == "agreement":
        return f"{line['peer']}: lowest cosine {line['cosine']:.4f}, centred {line['centred_cosine']:.4f}"
    return f"{line['peer']}: loaded in {line['seconds']:.1f} s"


def _derive(results: Results) -> dict[str, Any]:
    from rich.markdown import Markdown

    from mlclip_bench.peers.derive import derive
    from mlclip_bench.peers.report import HOW, report, write_report

    derived = derive(results)
    path = write_report(derived, results.folder)
    console.print(Markdown(report(derived).partition(HOW)[0]))
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return derived
