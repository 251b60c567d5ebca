"""The source that asks a real Triton server: what a head costs as it is served, alone and behind the encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc
from mlclip_export import ExportOptions, export_runs
from mlclip_export.configs import ConfigOptions
from mlclip_serve import Server
from tritonclient.utils import np_to_triton_dtype

from mlclip.checkpoint import EncoderRef, Run
from mlclip.encoders import Encoder
from mlclip.heads import Head
from mlclip_bench.scaling.build import build, example, shapes_of
from mlclip_bench.scaling.cases import ENCODER, WHOLE, Case
from mlclip_bench.scaling.rounds import Point
from mlclip_bench.scaling.sources import Measure, Parts

DEADLINE = 600.0
"""Of a request, in seconds: the largest heads take minutes."""


@contextmanager
def served(parts: Parts) -> Iterator[tuple[Sequence[Point], Measure]]:
    """Export all heads on one encoder into a model repository, and start Triton on it.

    Every point is one request of B images: to the head's own model, with features, and, as a further point, to its
    ensemble, with pixels.

    Raises:
        MlclipError: a head cannot be exported, or the server does not come up.
    """
    cases = parts.cases
    heads = {case.key: build(case, shapes_of(parts.encoder)) for case in cases if case.kind != ENCODER}
    runs = {key: _run(head, parts.encoder) for key, head in heads.items()}
    options = ExportOptions(configs=ConfigOptions(max_batch=max(point.batch for point in parts.points)))
    export_runs(
        runs,
        parts.folder,
        options,
        encoders=[parts.encoder],
        on_step=lambda step: parts.on_step(f"exporting {step}", 0, 0),
    )
    for case in cases:
        if case.key not in parts.known:
            paper = parts.papers[case]
            parts.raw.append({"kind": "graph", "case": case.key, "parameters": paper.parameters, "flops": paper.flops})
    whole = [Point(WHOLE + point.case, point.batch) for point in parts.points if point.case in heads]
    parts.on_step("starting Triton", 0, 0)
    with Server(parts.folder) as server, tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
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


def _run(head: Head, encoder: Encoder) -> Run:
    classes = head.config["classes"]
    labels = tuple(f"class {number}" for number in range(classes))
    return Run(head, labels, np.full(classes, 0.5, dtype=np.float32), EncoderRef.of(encoder))


def _request(point: Point, heads: Mapping[str, Head], parts: Parts) -> tuple[str, list[Any], list[Any]]:
    """Model, inputs and outputs of a point."""
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
        model, output = f"head_{key}", head.outputs[0]
    else:
        model, output = (f"encoder_{parts.encoder.tag}", "embedding") if key == ENCODER else (key, "scores")
    return model, inputs, [tritonclient.grpc.InferRequestedOutput(output)]
