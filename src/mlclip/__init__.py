"""Few-shot multi-label image classification on frozen CLIP.

Data flows through `data` → `encoders` → `heads`, `losses`, `training` → `metrics`, `thresholds` → `checkpoint`.
`MultiLabelClassifier` wraps all of it in `fit` and `predict_proba`.

The names below are loaded on first use, so that command lines answer without torch where they do not need it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlclip.checkpoint import Run, load_run, save_run
    from mlclip.classifier import MultiLabelClassifier
    from mlclip.data import Dataset, read_dataset
    from mlclip.encoders.clip import Encoder, load_encoder
    from mlclip.encoders.features import FeatureCache
    from mlclip.errors import MlclipError
    from mlclip.heads import HEADS
    from mlclip.settings import Recipe, ThresholdConfig, TrainConfig
    from mlclip.training.runs import evaluate_run, train_run

__all__ = [
    "HEADS", "Dataset", "Encoder", "FeatureCache", "MlclipError", "MultiLabelClassifier", "Recipe", "Run",
    "ThresholdConfig", "TrainConfig", "evaluate_run", "load_encoder", "load_run", "read_dataset", "save_run",
    "train_run",
]  # fmt: skip

_MODULES = {
    "checkpoint": ("Run", "load_run", "save_run"),
    "classifier": ("MultiLabelClassifier",),
    "data": ("Dataset", "read_dataset"),
    "encoders.clip": ("Encoder", "load_encoder"),
    "encoders.features": ("FeatureCache",),
    "errors": ("MlclipError",),
    "heads": ("HEADS",),
    "settings": ("Recipe", "ThresholdConfig", "TrainConfig"),
    "training.runs": ("evaluate_run", "train_run"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
