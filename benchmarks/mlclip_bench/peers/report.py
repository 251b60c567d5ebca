"""The report, `peers.md`, written from derived values alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlclip_bench.kit.files import write_text
from mlclip_bench.kit.intervals import LEVEL
from mlclip_bench.kit.markdown import bullets, document, table
from mlclip_bench.peers.agreement import FLOOR
from mlclip_bench.peers.catalogue import CLIENT
from mlclip_bench.peers.derive import UNSTABLE

HOW = "## How it was measured"
_METHOD = f"""\
Every peer gets the same files with the same weights and returns one vector per image; mlclip's client also gets the
labels. Each runs in a process of its own, with its own defaults for threads. Peers take turns, round by round; each
round has another order of images, the same for all peers. The clock of a peer starts before it opens the first file
and stops after the last vector; the files are in the page cache, since every peer has seen them all once before.
Ratios are taken within a round; values are medians over rounds with {LEVEL:.0%} bootstrap intervals. `unstable`
marks a ratio whose interval reaches further than {UNSTABLE:.0%} to one side.

Vectors are compared outside of the clock. The cosine is the lowest over all images after subtraction of the base's
mean vector, since vectors of random weights all lie close together; `own` is the share of images whose nearest vector
of the base is their own. Below {FLOOR} a peer counts as computing something else. Hugging Face's CLIPImageProcessor
deviates in three ways: it crops one pixel aside where an odd number of pixels is cut, its newer releases resize with
torchvision (off by at most 1 of 255), and it drops transparency where mlclip puts white. All compute in float32, with
the activation of the weights.

perf_analyzer gives no vectors; its clock is its own and does not include reading the files."""


def write_report(derived: Mapping[str, Any], folder: Path) -> Path:
    """Write `peers.md` into a folder and return its path."""
    return write_text(folder / "peers.md", report(derived))


def report(derived: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    peers = derived["peers"]
    return document(
        "# mlclip beside its peers",
        _where(derived["setting"]),
        _table(peers),
        _beside(peers),
        *_failures(peers),
        HOW,
        _METHOD,
        *_versions(peers),
    )


def _where(setting: Mapping[str, Any]) -> str:
    source = setting["provenance"]
    return (
        f"{setting['images']} images ({setting['bytes'] / 1e6:.1f} MB of files) per round, {setting['rounds']} rounds; "
        f"encoder {setting['encoder']['tag']}; batches of {setting['batch']}, {setting['concurrency']} requests under "
        f"way at the server, {setting['classes']} classes.\n"
        f"{source['machine']}; Python {source['python']}; commit {source['commit']}; {source['time']}."
    )


def _table(peers: Mapping[str, Any]) -> str:
    rows = [
        [
            peer["title"],
            _value(peer["images_per_second"], "{:.1f}"),
            _value(peer["ratio"], "{:.2f}") + ("" if (peer["ratio"] or {}).get("stable", True) else " unstable"),
            str(peer["rounds"]),
            *_agreement(peer["agreement"]),
        ]
        for peer in peers.values()
        if peer["images_per_second"] is not None
    ]
    header = ["what", "images/s", "ratio to the plain loop", "rounds", "lowest centred cosine", "own"]
    return table(header, rows) if rows else "No peer finished a round."


def _beside(peers: Mapping[str, Any]) -> str:
    """The throughput of perf_analyzer beside that of mlclip's client, if both were measured."""
    client = peers.get(CLIENT, {}).get("images_per_second")
    return "\n".join(
        f"perf_analyzer {peer['about']['perf_analyzer']} counts {theirs['median']:.1f} images/s on the server from "
        f"which mlclip's client gets {client['median']:.1f}: {client['median'] / theirs['median']:.2f} of it, "
        "including reading the files."
        for name, peer in peers.items()
        if name.startswith("perf-analyzer") and client and (theirs := peer["images_per_second"])
    )


def _failures(peers: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, peer in peers.items():
        if peer["error"]:
            stage = "; ".join(filter(None, (peer["failed_at"], ", ".join(peer["requirements"]))))
            error = peer["error"].replace("`", "'")
            lines.append(f"{name} ({stage}): `{error}`")
    return ["## Not measured, or only in part", bullets(lines)] if lines else []


def _versions(peers: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{name}: {', '.join(f'{key} {value}' for key, value in peer['about'].items())}; "
        f"loaded in {peer['load_seconds']:.1f} s"
        for name, peer in peers.items()
        if peer["about"]
    ]
    return ["## Versions", bullets(lines)] if lines else []


def _value(summary: Mapping[str, Any] | None, style: str) -> str:
    if summary is None:
        return "-"
    median = style.format(summary["median"])
    if summary["low"] is None:
        return median
    return f"{median} [{style.format(summary['low'])}, {style.format(summary['high'])}]"


def _agreement(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    warning = "" if found["agree"] else " **differs**"
    return f"{found['centred_cosine']:.4f}{warning}", f"{found['own']:.0%}"
