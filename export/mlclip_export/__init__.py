"""Export of trained heads: run folders become ONNX graphs, compared with torch, in a Triton model repository.

```python
from pathlib import Path
from mlclip.checkpoint import load_run
from mlclip_export import export_runs

report = export_runs({"mld": load_run(Path("runs/mld"))}, Path("model_repository"))
```

The names below are loaded on first use, so that `mlclip-export` answers without torch where it does not need it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlclip_export.export import Report, export_runs
    from mlclip_export.options import ConfigOptions, ExportOptions
    from mlclip_export.parity import Difference
    from mlclip_export.repository import Written

__all__ = ["ConfigOptions", "Difference", "ExportOptions", "Report", "Written", "export_runs"]

_MODULES = {
    "export": ("Report", "export_runs"),
    "options": ("ConfigOptions", "ExportOptions"),
    "parity": ("Difference",),
    "repository": ("Written",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
