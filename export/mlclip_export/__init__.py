"""Export of trained heads: run folders become ONNX graphs, compared with torch, in a Triton model repository.

```python
from pathlib import Path
from mlclip.checkpoint import load_run
from mlclip_export import export_runs

report = export_runs({"mld": load_run(Path("runs/mld"))}, Path("model_repository"))
```
"""

from mlclip_export.configs import ConfigOptions
from mlclip_export.export import ExportOptions, Report, export_runs
from mlclip_export.parity import Difference
from mlclip_export.repository import Written

__all__ = ["ConfigOptions", "Difference", "ExportOptions", "Report", "Written", "export_runs"]
