"""What Triton counts about its models: cumulative counters, and their growth between two readings.

Counters of an ensemble hold its own waiting and the sum of its steps' computing; the waiting for a step is counted
with the step. See Triton's statistics extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlclip_bench.load.define import LoadError


@dataclass(frozen=True)
class Counters:
    """Counters of one version of one model.

    An inference is an image, an execution a batch; `success` and `failures` count requests. Times are sums over
    successful requests, in nanoseconds.
    """

    inferences: int = 0
    executions: int = 0
    success: int = 0
    success_ns: int = 0
    failures: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    @property
    def batch(self) -> float:
        """Mean number of images per batch."""
        return self.inferences / self.executions if self.executions else 0.0

    def mean_us(self, field: str) -> float:
        """One of the times in microseconds per request."""
        return float(getattr(self, field)) / self.success / 1000 if self.success else 0.0


Statistics = Mapping[str, Counters]  # `name/version` of a model -> its counters


def read_statistics(reply: Any) -> dict[str, Counters]:
    """Read Triton's ModelStatisticsResponse."""
    found = {}
    for model in reply.model_stats:
        times = model.inference_stats
        found[f"{model.name}/{model.version}"] = Counters(
            inferences=model.inference_count,
            executions=model.execution_count,
            success=times.success.count,
            success_ns=times.success.ns,
            failures=times.fail.count,
            queue_ns=times.queue.ns,
            input_ns=times.compute_input.ns,
            infer_ns=times.compute_infer.ns,
            output_ns=times.compute_output.ns,
        )
    return found


def difference(before: Statistics, after: Statistics) -> dict[str, Counters]:
    """What each model did between two readings, idle models left out; raises LoadError if one was loaded again."""
    grown = {}
    for name, now in after.items():
        earlier = before.get(name, Counters())
        growth = Counters(**{f.name: getattr(now, f.name) - getattr(earlier, f.name) for f in fields(Counters)})
        if min(asdict(growth).values()) < 0:
            raise LoadError(f"model {name} was loaded again during the measurement; measure again")
        if growth.success or growth.failures or growth.inferences:
            grown[name] = growth
    return grown


def ensemble_steps(config: Any) -> tuple[str, ...]:
    """Names of the models in an ensemble's config; empty for other models."""
    return tuple(step.model_name for step in config.ensemble_scheduling.step)
