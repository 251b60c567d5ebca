"""The readable page: `peers.md`, written from derived figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlclip_bench.peers.agreement import FLOOR
from mlclip_bench.peers.catalogue import CLIENT
from mlclip_bench.peers.derive import LEVEL, UNSTABLE

_HOW = f"""\
Every peer gets the same files with the same weights and hands over one vector an image; mlclip's client also gets
the labels. Each runs in a process of its own, with its own defaults for threads; peers take turns, round by round,
each round in another order of images, the same order for all. The clock of a peer starts before it opens the first
file and stops after the last vector; the files are in the page cache, since every peer has seen them all once before.
Ratios are taken within a round; figures are medians over rounds with {LEVEL:.0%} bootstrap intervals. `unstable`
marks a ratio whose interval reaches further than {UNSTABLE:.0%} to one side.

Vectors are compared outside the clock. The cosine given is the lowest over all images after the mean vector of the
base is taken off, since vectors of random weights all lie close together; `own` is the share of images whose nearest
vector of the base is their own. Below {FLOOR} a peer counts as computing something else. What Hugging Face's
CLIPImageProcessor does otherwise: it crops one pixel aside where an odd number of pixels is cut, its newer releases
resize with torchvision (off by at most 1 of 255), and it drops transparency where mlclip puts white. All compute in
float32, with the activation of the weights.

perf_analyzer gives no vectors; its clock is its own and leaves out reading the files.
"""


def write_report(derived: Mapping[str, Any], folder: Path) -> Path:
    """Write `peers.md` into a folder, and give its path."""
    path = folder / "peers.md"
    path.write_text(report(derived), encoding="utf-8")
    return path


def report(derived: Mapping[str, Any]) -> str:
    """Give the page as Markdown."""
    setting, peers = derived["setting"], derived["peers"]
    parts = ["# mlclip beside its peers\n", _where(setting), _table(peers), _beside(peers), _failures(peers)]
    return "\n".join([*filter(None, parts), "## How it was measured\n", _HOW, _versions(peers)])


def _where(setting: Mapping[str, Any]) -> str:
    source = setting["provenance"]
    return (
        f"{setting['images']} images ({setting['bytes'] / 1e6:.1f} MB of files) a round, {setting['rounds']} rounds; "
        f"encoder {setting['encoder']['tag']}; batches of {setting['batch']}, {setting['concurrency']} requests under "
        f"way at the server, {setting['classes']} classes.\n"
        f"{source['machine']}; Python {source['python']}; commit {source['commit']}; {source['time']}.\n"
    )


def _table(peers: Mapping[str, Any]) -> str:
    rows = [
        "| what | images/s | ratio to the plain loop | rounds | lowest centred cosine | own |",
        "|---|---|---|---|---|---|",
    ]
    for peer in peers.values():
        if peer["images_per_second"] is not None:
            cells = (
                peer["title"],
                _figure(peer["images_per_second"], "{:.1f}"),
                _figure(peer["ratio"], "{:.2f}") + _unstable(peer["ratio"]),
                str(peer["rounds"]),
                *_agreement(peer["agreement"]),
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else "No peer finished a round.\n"


def _beside(peers: Mapping[str, Any]) -> str:
    """Lay perf_analyzer's throughput beside that of mlclip's client, where both were measured."""
    client = peers.get(CLIENT, {}).get("images_per_second")
    lines = []
    for name, peer in peers.items():
        theirs = peer["images_per_second"]
        if name.startswith("perf-analyzer") and client and theirs:
            lines.append(
                f"perf_analyzer {peer['about']['perf_analyzer']} counts {theirs['median']:.1f} images/s on the server "
                f"from which mlclip's client gets {client['median']:.1f}: {client['median'] / theirs['median']:.2f} of "
                "it, with reading the files.\n"
            )
    return "\n".join(lines)


def _failures(peers: Mapping[str, Any]) -> str:
    failed = {name: peer for name, peer in peers.items() if peer["error"]}
    if not failed:
        return ""
    lines = [f"* {name} ({_said(peer)}): {_quoted(peer['error'])}" for name, peer in failed.items()]
    return "## Not measured, or not to the end\n\n" + "\n".join(lines) + "\n"


def _said(peer: Mapping[str, Any]) -> str:
    wanted = ", ".join(peer["requirements"])
    return f"{peer['failed_at']}; {wanted}" if wanted else str(peer["failed_at"])


def _quoted(message: str) -> str:
    return "`" + message.replace("`", "'") + "`"


def _versions(peers: Mapping[str, Any]) -> str:
    lines = [
        f"* {name}: {', '.join(f'{key} {value}' for key, value in peer['about'].items())}; "
        f"loaded in {peer['load_seconds']:.1f} s"
        for name, peer in peers.items()
        if peer["about"]
    ]
    return "## Versions\n\n" + "\n".join(lines) + "\n" if lines else ""


def _figure(summary: Mapping[str, Any] | None, style: str) -> str:
    if summary is None:
        return "-"
    median = style.format(summary["median"])
    if summary["low"] is None:
        return median
    return f"{median} [{style.format(summary['low'])}, {style.format(summary['high'])}]"


def _unstable(summary: Mapping[str, Any] | None) -> str:
    return "" if summary is None or summary["stable"] else " unstable"


def _agreement(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    warning = "" if found["agree"] else " **differs**"
    return f"{found['centred_cosine']:.4f}{warning}", f"{found['own']:.0%}"
