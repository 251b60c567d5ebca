"""Few-shot multi-label image classification on frozen CLIP.

Data flows through `data` → `encoders` → `heads`, `losses`, `training` → `metrics`, `thresholds` → `checkpoint`.
`MultiLabelClassifier` wraps all of it in `fit` and `predict_proba`.
"""

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
    "HEADS",
    "Dataset",
    "Encoder",
    "FeatureCache",
    "MlclipError",
    "MultiLabelClassifier",
    "Recipe",
    "Run",
    "ThresholdConfig",
    "TrainConfig",
    "evaluate_run",
    "load_encoder",
    "load_run",
    "read_dataset",
    "save_run",
    "train_run",
]
