"""Send images to an mlclip Triton server and get labels back.

The names below are loaded on first use, so that `mlclip_client.pixels` can be imported without gRPC.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlclip_client.client import AsyncClient, Client
    from mlclip_client.errors import (
        BadImage,
        ClientError,
        DeadlineExceeded,
        ServerError,
        ServerUnavailable,
        TooLarge,
        UnknownHead,
        Unreadable,
    )
    from mlclip_client.images import Captioned
    from mlclip_client.options import Security
    from mlclip_client.pixels import PixelSpec
    from mlclip_client.values import Answer, HeadInfo, Prediction, Reference

__all__ = [
    "Answer", "AsyncClient", "BadImage", "Captioned", "Client", "ClientError", "DeadlineExceeded", "HeadInfo",
    "PixelSpec", "Prediction", "Reference", "Security", "ServerError", "ServerUnavailable", "TooLarge", "UnknownHead",
    "Unreadable",
]  # fmt: skip

_MODULES = {
    "client": ("AsyncClient", "Client"),
    "images": ("Captioned",),
    "options": ("Security",),
    "pixels": ("PixelSpec",),
    "values": ("Answer", "HeadInfo", "Prediction", "Reference"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
