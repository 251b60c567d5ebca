"""mlclip as it is meant to be used: its client sends the files' bytes, Triton answers with labels and embeddings."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlclip_client import Client


def load(settings: dict[str, Any]) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """Connect to the server."""
    client = Client(settings["url"], heads=(settings["head"],), embeddings=True, timeout=settings["deadline"])
    labels = len(client.model_info(settings["head"]).labels)

    def embed(paths: list[str]) -> Any:
        vectors = []
        for prediction in client.classify_many(map(Path, paths), concurrency=settings["concurrency"]):
            if prediction.error is not None:
                raise prediction.error
            vectors.append(prediction.embedding)
        return vectors

    return embed, {"mlclip-client": version("mlclip-client"), "labels": labels}
