"""Assemble the folder that tritonserver's --backend-directory names.

```
<folder>/python/        library, utils and the stub of the running Python version, from nvidia-pytriton
<folder>/onnxruntime/   model.py: this package's CPU backend, a Python-based backend
```

The files are copies: Triton refuses a library that a link leads out of the folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mlclip_serve import onnxruntime_backend
from mlclip_serve.embedded import Embedded

_LIBRARY = "libtriton_python.so"
_UTILS = "triton_python_backend_utils.py"


def assemble(embedded: Embedded, folder: Path) -> Path:
    """Fill a folder with the backends that the model repository needs.

    Args:
        embedded: where the server's parts are.
        folder: an empty or new folder.

    Returns:
        `folder`.
    """
    python, onnx = folder / "python", folder / "onnxruntime"
    python.mkdir(parents=True)
    onnx.mkdir()
    for file in (embedded.python_backend / _LIBRARY, embedded.python_backend / _UTILS, embedded.stub):
        shutil.copy2(file, python)
    (python / embedded.stub.name).chmod(0o755)
    shutil.copy2(Path(onnxruntime_backend.__file__), onnx / "model.py")
    return folder
