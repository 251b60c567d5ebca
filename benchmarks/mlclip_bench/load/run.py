"""Measure one level of load; all about it becomes one raw line."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass

import tritonclient.grpc.aio as triton
from mlclip_client import AsyncClient, ClientError
from tritonclient.utils import InferenceServerException

from mlclip.json_lines import Line
from mlclip.provenance import provenance
from mlclip_bench.load.define import Closed, Images, Load, LoadError, Pace, Questions
from mlclip_bench.load.generate import Measured, generate
from mlclip_bench.load.resources import Usage, cores_and_memory, read_usage
from mlclip_bench.load.server_counters import Statistics, difference, read_statistics
from mlclip_bench.load.target import CHANNEL, Target
from mlclip_bench.load.windows import CONSECUTIVE, Window, is_stable

_TIMEOUT = 30.0


@dataclass(frozen=True)
class Reading:
    """The server's own counters and what it uses at one moment."""

    statistics: Statistics
    usage: Usage


@dataclass(frozen=True)
class Setup:
    """What is asked of which server, with which images, and how long each level takes."""

    target: Target
    questions: Questions
    images: Images
    pace: Pace

    def line(self) -> Line:
        """What must be equal for levels in one table, as plain JSON values."""
        questions = asdict(self.questions) | {"heads": list(self.questions.heads)}
        del questions["target"]
        return {
            "server": self.target.name,
            "started_here": self.target.pid is not None,
            "contents": {name: self.target.contents[name] for name in sorted(self.target.contents)},
            "questions": questions,
            "images": self.images.describe(),
            "pace": asdict(self.pace),
            "machine": provenance()["machine"],
        }


def measure(load: Load, setup: Setup, *, purpose: str, on_window: Callable[[Window], None] | None = None) -> Line:
    """Put one level of load on a server and return the raw line; raises LoadError if its statistics cannot be read.

    The purpose is `sweep`, or `search` for a probe on the way to the highest rate.
    """
    base = read_usage(setup.target.pid, None)
    messages: dict[str, str] = {}
    try:
        measured = asyncio.run(_measure(load, setup, messages, on_window))
    except* (InferenceServerException, LoadError) as errors:
        raise LoadError(f"the server's statistics cannot be read: {_first(errors)}") from errors
    counted = measured.windows[-CONSECUTIVE:]
    readings = measured.observed[-len(counted) - 1 :]
    models = difference(readings[0].statistics, readings[-1].statistics)
    return {
        "mode": "closed" if isinstance(load, Closed) else "open",
        "level": load.concurrency if isinstance(load, Closed) else load.rate,
        "purpose": purpose,
        "target": setup.questions.target,
        "stable": is_stable(measured.windows),
        "windows": [window.to_dict() for window in measured.windows],
        "unanswered": measured.unanswered,
        "messages": messages,
        "models": {name: asdict(counters) for name, counters in models.items()},
        "ensembles": {name: list(steps) for name, steps in setup.target.ensembles.items()},
        "resources": cores_and_memory([reading.usage for reading in readings]) | {"client_rss_before": base.client_rss},
        "setting": setup.line(),
        "provenance": provenance(),
    }


async def _measure(
    load: Load, setup: Setup, messages: dict[str, str], on_window: Callable[[Window], None] | None
) -> Measured[Reading]:
    target, questions = setup.target, setup.questions
    client = AsyncClient(target.url, heads=questions.heads, timeout=questions.timeout, via=questions.via)
    statistics = triton.InferenceServerClient(target.url, channel_args=CHANNEL)

    async def ask(image: bytes) -> str | None:
        try:
            await client.classify(image)
        except ClientError as error:
            messages[error.kind] = str(error)
            return error.kind
        return None

    async def observe() -> Reading:
        reply = await statistics.get_inference_statistics(client_timeout=_TIMEOUT)
        usage = await asyncio.to_thread(read_usage, target.pid, target.metrics)
        return Reading(read_statistics(reply), usage)

    try:
        await observe()  # connects, which would take long during the first window
        return await generate(
            load, ask, setup.images.files, setup.pace, questions.seed, observe, target=questions.target,
            on_window=on_window,
        )  # fmt: skip
    finally:
        await client.close()
        await statistics.close()


def _first(errors: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
