"""What Triton counts of its models: cumulative counters, and what they grew by between two readings.

Counters of an ensemble hold its own waiting and the sum of its steps' computing; how long images wait for a step
stands with the step. See Triton's statistics extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlclip_bench.load.define import LoadError


@dataclass(frozen=True)
class Counters:
    """Of one version of one model; times are sums in nanoseconds.

    Attributes:
        inferences: images that ran.
        executions: batches in which they ran.
        success: requests that ended well.
        success_ns: their time on the server.
        failures: requests that did not.
        queue_ns: waiting.
        input_ns: gathering the inputs.
        infer_ns: computing.
        output_ns: handing out the outputs.
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
        """Mean number of images in a batch."""
        return self.inferences / self.executions if self.executions else 0.0

    def mean_us(self, field: str) -> float:
        """One of the times in microseconds a request."""
        return float(getattr(self, field)) / self.success / 1000 if self.success else 0.0


Statistics = Mapping[str, Counters]
"""`name/version` of a model -> its counters."""


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
    """What each model has done between two readings; models that did nothing are left out.

    Raises:
        LoadError: a counter went back, so this is not the server, or not the model, of before.
    """
    grown = {}
    for name, now in after.items():
        earlier = before.get(name, Counters())
        growth = Counters(**{f.name: getattr(now, f.name) - getattr(earlier, f.name) for f in fields(Counters)})
        if min(asdict(growth).values()) < 0:
            raise LoadError(f"model {name} was loaded anew during the measurement; measure again")
        if growth.success or growth.failures or growth.inferences:
            grown[name] = growth
    return grown


def ensemble_steps(config: Any) -> tuple[str, ...]:
    """Names of the models that an ensemble's config strings together; none where it is a model of its own."""
    return tuple(step.model_name for step in config.ensemble_scheduling.step)
