"""Assemble the folder for tritonserver's --backend-directory.

```
<folder>/python/        library, utils and the stub of the running Python version, from nvidia-pytriton
<folder>/onnxruntime/   model.py: this package's CPU backend, a Python-based backend
```

The files are copies: Triton refuses links to libraries outside the folder.
"""

import shutil
from pathlib import Path

from mlclip_serve.embedded import Embedded

_PARTS = ("libtriton_python.so", "triton_python_backend_utils.py")


def assemble(embedded: Embedded, folder: Path) -> Path:
    """Fill an empty or new folder with the backends, and return it."""
    python, onnx = folder / "python", folder / "onnxruntime"
    python.mkdir(parents=True)
    onnx.mkdir()
    for file in (*(embedded.python_backend / part for part in _PARTS), embedded.stub):
        shutil.copy2(file, python)
    (python / embedded.stub.name).chmod(0o755)
    shutil.copy2(Path(__file__).with_name("onnxruntime_backend.py"), onnx / "model.py")
    return folder
