"""`mlclip-bench peers`: the same images through what people would use instead."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from mlclip.console import console, progress
from mlclip.errors import DataError, ResultsError
from mlclip_bench.peers.catalogue import PEERS, Peer, PeerError, choose
from mlclip_bench.peers.environments import DEFAULT_ENVS, interpreter, is_built
from mlclip_bench.peers.raw import Raw

if TYPE_CHECKING:
    from mlclip_bench.peers.measure import Plan


def peers(
    images: Annotated[list[Path] | None, typer.Option(help="Image file or folder; repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images a round, drawn by --seed.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="How often every peer sees them.")] = 9,
    only: Annotated[str | None, typer.Option(help=f"Some of these, with commas between: {', '.join(PEERS)}.")] = None,
    encoder: Annotated[str, typer.Option(help="An open_clip model with a ViT, or an encoder folder.")] = "ViT-B-32",
    pretrained: Annotated[str | None, typer.Option(help="Tag or file of its weights, or `random`.")] = None,
    classes: Annotated[int, typer.Option(min=1, help="Labels of the served head.")] = 46,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch, where the peer builds its own.")] = 32,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at the server.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the images and their order.")] = 0,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds for any one answer of a peer.")] = 600.0,
    envs: Annotated[Path, typer.Option(help="Folder of the peers' environments and weights.")] = DEFAULT_ENVS,
    out: Annotated[Path, typer.Option(help="Folder for peers.jsonl, peers.json and peers.md.")] = Path("runs/peers"),
    derive: Annotated[bool, typer.Option("--derive", help="Measure nothing; derive again from --out.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compare with open_clip, sentence-transformers, infinity-emb and perf_analyzer: images/s as ratios.

    Each peer gets a virtual environment of its own in --envs, made with pip where it is not there yet. One that
    cannot be installed or loaded is reported with its error; then the exit code is 3.
    """
    raw = Raw(out)
    if derive:
        _finish(raw)
        return
    try:
        chosen = choose(only)
    except PeerError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    if raw.path.exists():
        raise ResultsError(f"{raw.path} holds a measurement: name another --out, or derive it again with --derive")
    from mlclip_bench.peers.measure import Plan

    plan = Plan(_draw(images or [Path("demo/data/images")], count, seed), rounds, batch, concurrency, seed, deadline)
    weights = pretrained or ("random" if encoder == "ViT-B-32" else None)
    try:
        _measure(plan, chosen, raw, envs, (encoder, weights), classes)
    except KeyboardInterrupt:
        if raw.path.exists():
            _finish(raw)
        raise
    derived = _finish(raw)
    if all(peer["images_per_second"] is None for peer in derived["peers"].values()):
        raise PeerError(f"no peer could be measured: {raw.folder / 'peers.md'} says why")
    if any(peer["error"] for peer in derived["peers"].values()):
        raise typer.Exit(3)


def _measure(
    plan: Plan, chosen: tuple[Peer, ...], raw: Raw, envs: Path, encoder: tuple[str, str | None], classes: int
) -> None:
    from mlclip_bench.peers.material import prepare
    from mlclip_bench.peers.measure import measure, setting

    pythons, failures = _install(chosen, envs)
    with console.status("make") as status:
        material = prepare(*encoder, classes, envs / "material", on_step=lambda step: status.update(f"make {step}"))
    raw.append("setting", **setting(plan, material, chosen, classes))
    for name, error in failures.items():
        raw.append("failed", peer=name, stage="install", error=error)
    total, done = plan.rounds * len(pythons), 0
    with progress("rounds") as on_progress:

        def on_line(line: dict[str, Any]) -> None:
            nonlocal done
            done += line["kind"] == "time"
            if line["kind"] == "time":
                on_progress(done, total)
            else:
                console.print(_told(line), soft_wrap=True, highlight=False)

        measure(plan, pythons, material, raw, on_line)


def _install(chosen: tuple[Peer, ...], envs: Path) -> tuple[dict[Peer, Path], dict[str, str]]:
    """Give each peer's interpreter, and why others have none."""
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
            console.print(f"{peer.name}: {escape(str(error))}", highlight=False, soft_wrap=True)
    return pythons, failures


def _draw(paths: list[Path], count: int, seed: int) -> tuple[Path, ...]:
    """Draw images below some paths; files that cannot be decoded are passed by, since they would stop every peer.

    Raises:
        DataError: there are none.
    """
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


def _told(line: Mapping[str, Any]) -> str:
    """A raw line for people."""
    if line["kind"] == "failed":
        return f"{line['peer']} failed ({line['stage']}): {escape(line['error'])}"
    if line["kind"] == "agreement":
        return f"{line['peer']}: lowest cosine {line['cosine']:.4f}, centred {line['centred_cosine']:.4f}"
    return f"{line['peer']}: loaded in {line['seconds']:.1f} s"


def _finish(raw: Raw) -> dict[str, Any]:
    """Derive, write the page, show it."""
    from rich.markdown import Markdown

    from mlclip_bench.peers.derive import derive
    from mlclip_bench.peers.report import report, write_report

    derived = derive(raw)
    path = write_report(derived, raw.folder)
    console.print(Markdown(report(derived).partition("## How it was measured")[0]))
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return derived
