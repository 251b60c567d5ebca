"""The package stays light: a crawler host has no torch."""

import subprocess
import sys

HEAVY = (
    "torch",
    "torchvision",
    "open_clip",
    "onnx",
    "onnxruntime",
    "sklearn",
    "mlclip",
    "mlclip_export",
    "mlclip_serve",
)
PROBE = "import sys; import {}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"


def loaded_by(statement):
    done = subprocess.run([sys.executable, "-c", PROBE.format(statement)], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_whole_package_imports_nothing_heavy():
    loaded = loaded_by("mlclip_client.cli.classify, mlclip_client.client, mlclip_client.pixels")
    assert {"mlclip_client", "grpc", "pyarrow"} <= loaded
    assert not loaded & set(HEAVY)


def test_this_test_would_notice():
    assert "onnx" in loaded_by("mlclip_client.cli.classify, onnx") & set(HEAVY)


def test_pixels_alone_need_pillow_and_numpy_only():
    assert not loaded_by("mlclip_client.pixels") & {"grpc", "tritonclient", "pyarrow", "typer", "rich"}


def test_every_public_name_exists():
    import mlclip_client

    assert all(getattr(mlclip_client, name).__name__ == name for name in mlclip_client.__all__)
    assert not hasattr(mlclip_client, "nothing_of_this_name")
