"""The room stands alone: light, and without the others."""

import subprocess
import sys

MODULES = "mlclip_serve, mlclip_serve.cli, mlclip_serve.onnxruntime_backend, mlclip_serve.guard"
STRANGERS = {"torch", "pytriton", "mlclip", "mlclip_export", "mlclip_client", "mlclip_bench"}


def test_room_loads_no_torch_and_none_of_the_other_rooms():
    report = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    code = f"import {MODULES}; {report}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mlclip_serve" in done.stdout and not STRANGERS & set(done.stdout.split())
