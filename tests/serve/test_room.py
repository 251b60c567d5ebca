"""The room stands alone: light, and without the others."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = "mlclip_serve, mlclip_serve.cli, mlclip_serve.onnxruntime_backend, mlclip_serve.guard"
STRANGERS = {"torch", "pytriton", "mlclip", "mlclip_export", "mlclip_client", "mlclip_bench"}


def loaded_strangers(code):
    """Run code in a fresh interpreter and name the strangers that it loaded."""
    report = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return STRANGERS & set(done.stdout.split())


def test_room_loads_no_torch_and_none_of_the_other_rooms():
    assert loaded_strangers(f"import {MODULES}") == set()


@pytest.mark.parametrize("stranger", sorted(STRANGERS))
def test_a_stranger_would_be_noticed(stranger):
    assert loaded_strangers(f"import sys; sys.modules[{stranger + '.part'!r}] = None") == {stranger}
