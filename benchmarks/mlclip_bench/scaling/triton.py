"""The source that asks a real Triton server: what a head costs as served, alone and behind the encoder."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import tritonclient.grpc
from mlclip_export import ConfigOptions, ExportOptions, export_runs
from mlclip_export.graphs import FILE
from mlclip_export.repository import latest_version
from mlclip_serve import Server
from tritonclient.utils import np_to_triton_dtype

from mlclip.checkpoint import EncoderRef, Run
from mlclip.encoders.clip import Encoder
from mlclip.heads import Head
from mlclip_bench.scaling.build import build, example, shapes_of
from mlclip_bench.scaling.cases import ENCODER, WHOLE, Case
from mlclip_bench.scaling.graphs import facts
from mlclip_bench.scaling.rounds import Point
from mlclip_bench.scaling.sources import Measure, Parts

DEADLINE = 600.0  # of the start and of a request, in seconds: the largest heads take minutes


def head_threads(threads: int) -> int:
    """Threads of each head for a number that was asked for; 0 leaves the one that `mlclip-export` chooses."""
    return threads or ConfigOptions().head_threads


@contextmanager
def served(parts: Parts) -> Iterator[tuple[Sequence[Point], Measure]]:
    """Export all heads on one encoder into a model repository, and start Triton on it.

    Every point is one request of B images to the head's own model, with features. A further point asks its ensemble,
    with pixels.
    """
    cases = parts.cases
    heads = {case.key: build(case, shapes_of(parts.encoder)) for case in cases if case.kind != ENCODER}
    _export(heads, parts)
    whole = [Point(WHOLE + point.case, point.batch) for point in parts.points if point.case in heads]
    parts.on_step("starting Triton", 0, 0)
    with (
        Server(parts.folder, ready_timeout=DEADLINE) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        requests = {point: _request(point, heads, parts) for point in (*parts.points, *whole)}

        def measure(point: Point, seconds: float) -> list[float]:
            model, inputs, outputs = requests[point]
            times: list[float] = []
            end = time.perf_counter() + seconds
            while not times or time.perf_counter() < end:
                started = time.perf_counter()
                client.infer(model, inputs, outputs=outputs, client_timeout=DEADLINE)
                times.append(time.perf_counter() - started)
            return times

        for number, point in enumerate(requests):
            parts.on_step(f"warming up {point.case}", number, len(requests))
            measure(point, 0)
        yield list(requests), measure


def _export(heads: Mapping[str, Head], parts: Parts) -> None:
    """Write the repository, and a line for each graph in it.

    What a graph takes to load and to run is measured in a process of its own, on the files that are served: Triton
    loads models side by side and does not say what each of them takes.
    """
    steps: list[tuple[str, float]] = []

    def on_step(step: str) -> None:
        parts.on_step(f"exporting {step}", 0, 0)
        steps.append((step, time.perf_counter()))

    configs = ConfigOptions(
        max_batch=max(point.batch for point in parts.points),
        encoder_threads=parts.threads,
        head_threads=head_threads(parts.threads),
    )
    runs = {key: _run(head, parts.encoder) for key, head in heads.items()}
    options = ExportOptions(configs=configs)
    report = export_runs(runs, parts.folder, options, encoders=[parts.encoder], on_step=on_step)
    seconds = {step: after - before for (step, before), (_, after) in pairwise(steps)}
    known = parts.known()
    for case in parts.cases:
        if case.key in known:
            continue
        model = _model(case.key, parts.encoder)
        folder = latest_version(parts.folder / model)
        parts.on_step(f"loading {model}", 0, 0)
        difference = max(found.value for found in report.differences if found.model == model)
        with parts.pool() as pool:
            parts.add_graph(pool, case, folder / FILE, facts(folder, seconds[model], difference, parts.estimates[case]))


def _model(key: str, encoder: Encoder) -> str:
    return f"encoder_{encoder.tag}" if key == ENCODER else f"head_{key}"


def _run(head: Head, encoder: Encoder) -> Run:
    classes = head.config["classes"]
    labels = tuple(f"class {number}" for number in range(classes))
    return Run(head, labels, np.full(classes, 0.5, dtype=np.float32), EncoderRef.of(encoder))


def _request(point: Point, heads: Mapping[str, Head], parts: Parts) -> tuple[str, list[Any], list[Any]]:
    key, head = point.case.removeprefix(WHOLE), heads.get(point.case)
    kind = ENCODER if head is None else head.name
    tensors = example(Case(kind), head or parts.encoder, shapes_of(parts.encoder), point.batch, parts.encoder)
    names = head.inputs if head is not None else ("pixels",)
    inputs = []
    for name, tensor in zip(names, tensors, strict=True):
        values = tensor.numpy()
        given = tritonclient.grpc.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
        inputs.append(given.set_data_from_numpy(values))
    if head is not None:
        model, output = _model(key, parts.encoder), head.outputs[0]
    else:
        model, output = (_model(key, parts.encoder), "embedding") if key == ENCODER else (key, "scores")
    return model, inputs, [tritonclient.grpc.InferRequestedOutput(output)]
