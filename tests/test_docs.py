"""The documentation: every command in it exists, and every `sh` block runs as it stands, in a copy of the project."""

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer.main
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in ("data", "heads", "serving", "bench", "client"))]
MORE = [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob("*/README.md"), ROOT / "demo/data/README.md"]
OUTSIDE_MAKE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def blocks(page, kind):
    """The lines of all fenced blocks of a kind."""
    text = page.read_text(encoding="utf-8")
    return [line for block in re.findall(rf"```{kind}\n(.*?)```", text, re.S) for line in block.splitlines()]


RUN = list(dict.fromkeys(line for page in PAGES for line in blocks(page, "sh")))
SHOWN = sorted({line.partition("  #")[0].strip() for page in PAGES for line in blocks(page, "(?:sh|text)")})


@pytest.mark.parametrize("line", [line for line in SHOWN if re.search(r"\bmlclip(-\w+)? ", line)])
def test_a_command_that_is_shown_has_the_options_that_it_is_shown_with(line):
    words = shlex.split(line.rpartition("| ")[2])
    command = typer.main.get_command(importlib.import_module(f"{words.pop(0).replace('-', '_')}.cli").app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("tool", ["mlclip", "mlclip-export", "mlclip-serve", "mlclip-client", "mlclip-bench"])
def test_a_page_of_options_is_what_the_command_says_of_itself(tool, tmp_path):
    shell(f"make docs-commands TOOLS={tool} COMMANDS={tmp_path} VENV={sys.prefix} -o {sys.prefix}/ready", ROOT)
    written = (tmp_path / f"{tool}.md").read_text(encoding="utf-8")
    assert written == (ROOT / "docs" / "commands" / f"{tool}.md").read_text(encoding="utf-8"), "`make docs` mends it"


@pytest.mark.parametrize("page", MORE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / unquote(target)).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_each_promise_leads_to_tests_that_make_test_faults_runs(page):
    tests = re.findall(r"\]\((?:\.\./)?(tests/[^)]+\.py)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert tests and all("mark.faults" in (ROOT / test).read_text(encoding="utf-8") for test in tests)
    assert shell("make -n test-faults -o .venv/ready", ROOT).strip().endswith("pytest -m faults")


def test_the_make_targets_and_ci_run_all_tests_between_them():
    assert "make check test test-slow" in (ROOT / ".ci" / "run").read_text()
    planned = shell("make -n test test-slow -o .venv/ready", ROOT).splitlines()
    assert planned == [
        '.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow"',
        ".venv/bin/python -m pytest -m slow",
    ]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files that git knows, with this environment as `.venv`, and a newcomer's `photos/` and `labels.csv`."""
    folder = tmp_path_factory.mktemp("newcomer") / "mlclip"
    for name in filter(None, shell("git ls-files -z --cached --others --exclude-standard", ROOT).split("\0")):
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


@pytest.mark.slow
def test_make_demo(copy):
    """From pictures to labels; `-o` keeps make from installing what runs this test."""
    assert RUN[:2] == ["make demo", "make test"]
    printed = shell("make demo -o .venv/ready", copy)
    rows = pq.read_table(copy / "demo" / "labels.parquet").to_pylist()
    assert len(rows) == 240 and not any(row["error"] for row in rows)
    assert len({tuple(row["answers"]["mld"]["labels"]) for row in rows}) > 10
    with Image.open(copy / "demo" / "predictions.png") as sheet:
        assert sheet.width > 1000 and np.asarray(sheet.convert("L")).std() > 20
    said = ("mAP (macro)", "sigmoid, test", "mld, test", "mlclip-client classify", "heads_mlclip-lite", "differ by")
    assert all(words in printed for words in said)


@pytest.mark.slow
def test_all_other_commands_run_in_their_order(copy):
    """Runs after `make demo`: the own head is served beside the demo's."""
    place = RUN.index("mlclip-serve")
    for command in RUN[2:place]:
        shell(command, copy)
    asking = [command for command in RUN[place + 1 :] if command.startswith("mlclip-client classify")]
    ready = copy / "ready.json"
    ports = [word for kind in ("grpc", "http", "metrics") for word in (f"--{kind}-port", "0")]
    command = [copy / ".venv" / "bin" / "mlclip-serve", *ports, "--ready-file", ready]
    with subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, text=True) as server:
        deadline = threading.Timer(900, server.kill)
        deadline.start()
        try:
            endpoints = next((line for line in server.stdout if ready.exists()), "")
            assert endpoints, "the server ended before it was ready"
            url = json.loads(ready.read_text())["grpc"]
            for command in asking:
                shell(f"{command} --url {url}", copy)
        finally:
            server.send_signal(signal.SIGTERM)
            server.stdout.read()
            deadline.cancel()
    assert server.returncode == 0
    for command in RUN[place + 1 :]:
        if command not in asking:
            shell(command, copy)
    rows = pq.read_table(copy / "labels.parquet").to_pylist()
    assert len(rows) == 300 and not any(row["error"] for row in rows)
    assert len({tuple(row["answers"]["own"]["labels"]) for row in rows}) > 5
    assert "own" in (copy / "report.html").read_text(encoding="utf-8")
    assert all(name in (copy / "comparison/report.md").read_text() for name in ("sigmoid", "neighbors", "zeroshot"))
    assert len((copy / "audit.csv").read_text().splitlines()) > 10
    assert (copy / "runs" / "search" / "references.jsonl").is_file()


@pytest.mark.slow
def test_the_notebook_runs_cell_by_cell(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs" / "few_shot.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "docs")}}).execute()
    assert "mAP" in notebook.cells[-2].outputs[0].text
