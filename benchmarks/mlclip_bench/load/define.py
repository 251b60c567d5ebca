"""What is measured: levels of load, how long each takes, the questions and the images."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlclip_client.pixels import ImageError, decode

from mlclip.errors import MlclipError

if TYPE_CHECKING:
    from mlclip_client.options import Via

MOST_IMAGES = 512  # images that are kept in memory and sent again and again, in a new random order each round


class LoadError(MlclipError):
    """The server, its heads or the images cannot be used to measure load."""


@dataclass(frozen=True)
class Closed:
    """Clients that each send the next image when they have the answer to the last one."""

    concurrency: int

    def __str__(self) -> str:
        return f"concurrency {self.concurrency}"


@dataclass(frozen=True)
class Open:
    """Images that arrive at random moments, `rate` per second, whether or not the server keeps up."""

    rate: float

    def __str__(self) -> str:
        return f"{self.rate:g} images/s"


Load = Closed | Open


@dataclass(frozen=True)
class Pace:
    """How long a level is measured."""

    window: float = 5.0  # seconds per window, at least
    requests: int = 100  # images per window of the closed loop, at least
    arrivals: int = 300  # images per window of the open loop, at least: its 99th percentile decides
    warmup: float = 2.0  # seconds under load before the first window
    windows: int = 10  # after this many, a level counts as unstable

    def seconds(self, load: Open) -> float:
        """Length of a window of the open loop."""
        return max(self.window, self.arrivals / load.rate)


@dataclass(frozen=True)
class Images:
    """What is sent: the bytes of image files, and how many others were rejected as not decodable."""

    files: tuple[bytes, ...]
    rejected: int = 0

    def describe(self) -> dict[str, Any]:
        """Count, mean size and digest as plain JSON values."""
        digest = hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in self.files))
        size = sum(map(len, self.files))
        return {"count": len(self.files), "mean_bytes": size // len(self.files), "sha256": digest.hexdigest()}


def read_images(
    paths: Sequence[Path], seed: int, most: int = MOST_IMAGES, on_image: Callable[[int, int], None] | None = None
) -> Images:
    """Read at most `most` images below some paths, chosen at random; raises LoadError if there are none.

    `on_image` is called with the number of images read and their total.
    """
    from mlclip_client.inputs.folders import find_images  # slow to load

    for path in paths:
        if not path.exists():
            raise LoadError(f"no such file or folder: {path}; name images with --images")
    found = sorted(find_images(paths))
    chosen = random.Random(seed).sample(found, min(most, len(found)))
    files = []
    for done, path in enumerate(chosen, start=1):
        try:
            data = path.read_bytes()
            decode(data)
            files.append(data)
        except (ImageError, OSError):
            pass
        if on_image is not None:
            on_image(done, len(chosen))
    if not files:
        raise LoadError(f"no image in {', '.join(map(str, paths))}; name images with --images")
    return Images(tuple(files), rejected=len(chosen) - len(files))


@dataclass(frozen=True)
class Questions:
    """What is asked of the server."""

    heads: tuple[str, ...]
    via: Via = "bytes"
    timeout: float = 30.0  # deadline of each request, in seconds
    target: float | None = 0.2  # seconds that 99 of 100 answers may take; None for no target
    seed: int = 0  # of the arrivals and of the order of images
