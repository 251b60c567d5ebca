"""infinity-emb's asynchronous engine in this process; it decodes, batches and pipelines by itself."""

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from infinity_emb import AsyncEmbeddingEngine, EngineArgs  # type: ignore[import-not-found]


def load(settings: dict[str, Any]) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """Load the model from its folder in Hugging Face's format, and start the engine."""
    arguments = EngineArgs(
        model_name_or_path=settings["hugging_face"],
        engine="torch",
        device="cpu",
        batch_size=settings["batch"],
        compile=False,
        model_warmup=False,
    )
    loop = asyncio.new_event_loop()
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop.run_until_complete(engine.astart())

    def embed(paths: list[str]) -> Any:
        images = [Path(path).read_bytes() for path in paths]
        vectors, _ = loop.run_until_complete(engine.image_embed(images=images))
        return vectors

    return embed, {
        "infinity-emb": version("infinity-emb"),
        "transformers": version("transformers"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
