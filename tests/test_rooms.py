"""The rooms keep to themselves: who imports whom, and what a crawler host has to install."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "open_clip", "sklearn", "onnx", "onnxruntime")
SLOW = {*HEAVY, "scipy", "grpc", "pyarrow", "pandas", "matplotlib", "optuna", "tritonclient", "httpx2", "fsspec"}


def loaded_modules(statement):
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(re.findall(r'"([^"]+)"', done.stdout))


@pytest.mark.parametrize("room", ["mlclip_client", "mlclip_client.cli", "mlclip_serve", "mlclip_serve.cli"])
def test_client_and_launcher_load_no_torch_and_no_other_room(room):
    loaded = loaded_modules(f"import {room}")
    others = {"mlclip", "mlclip_export", "mlclip_bench", "mlclip_client", "mlclip_serve"} - {room.split(".")[0]}
    assert room in loaded
    assert not loaded & {*HEAVY, *others}


def test_that_test_can_fail():
    assert set(HEAVY) <= loaded_modules("from mlclip import MultiLabelClassifier; import onnx, onnxruntime, sklearn")


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("mlclip.heads", {"torch", "numpy", "PIL"}),
        ("mlclip.presets", set()),
        ("mlclip.cli", {"typer", "rich"}),
        ("mlclip_export.cli", {"typer", "rich"}),
        ("mlclip_client.cli", {"typer", "rich"}),
        ("mlclip_client.pixels", {"numpy", "PIL"}),
        ("mlclip_client.lines", set()),
        ("mlclip_client.files", set()),
    ],
)
def test_what_is_slow_is_loaded_where_it_is_used(module, needs):
    assert loaded_modules(f"import {module}") & {*SLOW, "numpy", "PIL", "typer", "rich"} <= needs


REFUSALS = {
    "mlclip --help": 0,
    "mlclip train --help": 0,
    "mlclip train --data x --nope": 2,
    "mlclip train --data x --lr nan": 1,
    "mlclip train --data x --seed 4294967296": 1,
    "mlclip train --data x --loss-option gamma_neg=1 --loss focal": 1,
    "mlclip train --data x --head nope": 1,
    "mlclip train --data x --beta nan": 1,
    "mlclip train --data x --head tip": 1,
    "mlclip train --data x --recipe nope": 1,
    "mlclip recipes": 0,
    "mlclip tune x --search luck": 2,
    "mlclip tune x --beta -1": 1,
    "mlclip eval --help": 0,
    "mlclip eval x --roc y": 1,
    "mlclip pretrain --data x --out y --seed -1": 1,
    "mlclip data read x --out y.csv": 1,
    "mlclip data prepare --data x --duplicates nan 1": 1,
    "mlclip data audit --data x --heads nope": 1,
    "mlclip-export --help": 0,
    "mlclip-export --tolerance nan": 2,
    "mlclip-bench --help": 0,
    "mlclip-bench --classes x": 2,
    "mlclip-client --help": 0,
    "mlclip-client classify": 2,
    "mlclip-client classify x --out y.csv": 2,
    "mlclip-client classify x --proxy y": 2,
    "mlclip-client classify x --engine ray": 2,
    "mlclip-client duplicates x --out y.txt": 2,
    "mlclip-client duplicates x --cosine 2": 2,
    "mlclip-client report x --limit 0": 2,
    "mlclip-client status": 2,
    "mlclip-serve --help": 0,
    "mlclip-serve --grpc-port -1": 2,
}
"""Commands with their exit codes."""
RUN_ALL = """
import importlib, json, sys
found = {}
for command in json.loads(sys.argv[1]):
    sys.argv = command.split()
    try:
        importlib.import_module(sys.argv[0].replace("-", "_") + ".cli").main()
    except SystemExit as end:
        found[command] = [end.code or 0, *(name for name in SLOW if name in sys.modules)]
print()
print(json.dumps(found))
"""


def test_help_and_refusals_load_nothing_that_is_slow(tmp_path):
    command = [sys.executable, "-c", f"SLOW = {SLOW}\n{RUN_ALL}", json.dumps([*REFUSALS])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {name: [code] for name, code in REFUSALS.items()}
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def installed_with(name):
    """Names of all distributions that come along with one, extras of its own left out."""
    seen, todo = set(), [name]
    while todo:
        current = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if current not in seen:
            seen.add(current)
            wanted = map(Requirement, distribution(current).requires or ())
            todo += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return seen


@pytest.mark.parametrize("name", ["mlclip-client", "mlclip-serve"])
def test_client_and_launcher_install_no_torch(name):
    assert not installed_with(name) & {"torch", "torchvision", "mlclip"}


def test_that_test_can_fail_too():
    assert "torch" in installed_with("mlclip")


def lint_imports(**options):
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def test_imports_go_one_way():
    """import-linter's contracts, as in pyproject.toml."""
    done = lint_imports()
    assert done.returncode == 0, done.stdout


def test_imports_of_the_client_that_go_upward_or_in_a_circle_are_noticed(tmp_path):
    shutil.copytree(ROOT / "client" / "mlclip_client", tmp_path / "mlclip_client")
    for file, imported in (("pixels", "session"), ("server/catalog", "server.wire"), ("unlisted", "pixels")):
        with (tmp_path / "mlclip_client" / f"{file}.py").open("a") as module:
            module.write(f"\nimport mlclip_client.{imported}\n")
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = lint_imports(env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 1
    assert "mlclip_client.pixels -> mlclip_client.session" in done.stdout
    assert "No cycles are allowed in mlclip_client.server." in done.stdout
    assert "mlclip_client.unlisted" in done.stdout


def test_every_file_that_belongs_to_python_3_10_compiles_there():
    """The python models run inside NVIDIA's container, whose Python may be 3.10."""
    import ast

    models = sorted((ROOT / "export" / "mlclip_export" / "served").glob("[a-z]*.py"))
    assert len(models) > 1
    for path in (ROOT / "client" / "mlclip_client" / "pixels.py", *models):
        ast.parse(path.read_text(), feature_version=(3, 10))
