"""The rooms keep to themselves: who imports whom, and what a crawler host has to install."""

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


def loaded_modules(statement):
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(re.findall(r'"([^"]+)"', done.stdout))


@pytest.mark.parametrize("room", ["mlclip_client", "mlclip_client.cli", "mlclip_serve", "mlclip_serve.cli"])
def test_client_and_launcher_load_no_torch_and_no_other_room(room):
    """The launcher's CPU backend is onnxruntime; the client loads it for --embedded only."""
    loaded = loaded_modules(f"import {room}")
    others = {"mlclip", "mlclip_export", "mlclip_bench", "mlclip_client", "mlclip_serve"} - {room.split(".")[0]}
    assert room in loaded
    assert not loaded & {*HEAVY, *others} - ({"onnxruntime"} if room.startswith("mlclip_serve") else set())


def test_that_test_can_fail():
    assert set(HEAVY) <= loaded_modules("import mlclip, onnx, onnxruntime")


def test_pixels_need_only_pillow_and_numpy():
    loaded = loaded_modules("import mlclip_client.pixels")
    assert not loaded & {*HEAVY, "grpc", "tritonclient", "pyarrow", "typer", "rich"}


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
