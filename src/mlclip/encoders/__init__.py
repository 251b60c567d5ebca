"""Encoders: open_clip models, their text towers, and the features cached from them."""

from pathlib import Path

MODELS = Path(__file__).parents[1] / "models"
DEFAULT_ENCODER = "mlclip-lite"
DEFAULT_CACHE = Path("features")
