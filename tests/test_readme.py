"""Every command of the README, run as it stands there, in a copy of the repository."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTSIDE_MAKE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files that git knows, with this environment as `.venv`, and a newcomer's `photos/` and `labels.csv`."""
    folder = tmp_path_factory.mktemp("newcomer") / "mlclip"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    manifest = (folder / "demo" / "data" / "manifest.jsonl").read_text().splitlines()
    (folder / "photos").mkdir()
    lines = ["path,labels"]
    for row in map(json.loads, manifest[:300]):
        name = Path(row["path"]).name
        shutil.copy2(folder / "demo" / "data" / row["path"], folder / "photos" / name)
        lines.append(f"{name},{'|'.join(row['labels'])}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def shell(command, folder):
    """Run one line as a newcomer's shell would, after `source .venv/bin/activate`."""
    path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=OUTSIDE_MAKE | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_readme_has_the_commands_that_are_run_here():
    assert COMMANDS == [
        "make demo",
        "make test",
        "source .venv/bin/activate",
        "mlclip data read photos --labels labels.csv --out own.jsonl",
        "mlclip train --data own.jsonl --head mld --out runs/own",
        "mlclip eval runs/own",
        "mlclip-export --run runs/own",
        "mlclip-serve",
        "mlclip-client classify photos --head own --out labels.parquet",
        "mlclip-client report labels.parquet --out report.html",
        "mlclip-bench heads --data own.jsonl --heads sigmoid,neighbors,zeroshot --seeds 1 --out comparison",
        "mlclip data audit --data own.jsonl --out audit.csv",
        "mlclip train --data own.jsonl --recipe 002-neighbors --out runs/search",
    ]


def test_make_test_is_what_ci_runs():
    assert "make check test" in (ROOT / ".ci" / "run").read_text()
    command = ["make", "-n", "test", "-o", ".venv/ready"]
    planned = subprocess.run(command, cwd=ROOT, env=OUTSIDE_MAKE, capture_output=True, text=True)
    assert planned.stdout.strip() == ".venv/bin/python -m pytest"


def test_make_demo(copy):
    """From pictures to labels; `-o` keeps make from installing what runs this test."""
    printed = shell("make demo -o .venv/ready", copy)
    rows = pq.read_table(copy / "demo" / "labels.parquet").to_pylist()
    assert len(rows) == 240 and not any(row["error"] for row in rows)
    assert len({tuple(row["answers"]["mld"]["labels"]) for row in rows}) > 10
    with Image.open(copy / "demo" / "predictions.png") as sheet:
        assert sheet.width > 1000 and np.asarray(sheet.convert("L")).std() > 20
    for words in (
        "mAP (macro)",
        "sigmoid, test",
        "mld, test",
        "mlclip-client classify",
        "heads_mlclip-tiny",
        "differ by at most",
    ):
        assert words in printed


def test_own_data_from_manifest_to_labels(copy):
    """Runs after `make demo`, as in the README: the new head is served beside the demo's."""
    for command in COMMANDS[2:7]:
        shell(command, copy)
    ready = copy / "ready.json"
    ports = [word for kind in ("grpc", "http", "metrics") for word in (f"--{kind}-port", "0")]
    command = [copy / ".venv" / "bin" / COMMANDS[7], *ports, "--ready-file", ready]
    with subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, text=True) as server:
        deadline = threading.Timer(900, server.kill)
        deadline.start()
        try:
            endpoints = next((line for line in server.stdout if ready.exists()), "")
            assert endpoints, "the server ended before it was ready"
            url = json.loads(ready.read_text())["grpc"]
            shell(f"{COMMANDS[8]} --url {url}", copy)
            shell(COMMANDS[9], copy)
        finally:
            server.send_signal(signal.SIGTERM)
            server.stdout.read()
            deadline.cancel()
    assert server.returncode == 0
    rows = pq.read_table(copy / "labels.parquet").to_pylist()
    assert len(rows) == 300 and not any(row["error"] for row in rows)
    assert len({tuple(row["answers"]["own"]["labels"]) for row in rows}) > 5
    assert "own" in (copy / "report.html").read_text(encoding="utf-8")


def test_heads_are_compared_and_labels_audited(copy):
    """Runs on the manifest that the test above has made."""
    for command in COMMANDS[10:]:
        shell(command, copy)
    report = (copy / "comparison" / "report.md").read_text()
    assert all(name in report for name in ("sigmoid", "neighbors", "zeroshot"))
    assert len((copy / "audit.csv").read_text().splitlines()) > 10
    assert (copy / "runs" / "search" / "references.jsonl").is_file()
