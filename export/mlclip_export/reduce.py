"""Encoders of reduced precision, and the gate that they pass before anything is written.

Every head is asked about its validation images twice: with the float32 features, and with those of the reduced encoder
in each runtime that may serve it. bfloat16 exists in OpenVINO only; onnxruntime computes float32 from the same file.
"""

import hashlib
import importlib.util
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlclip_client.cpu import OpenVino
from mlclip_client.pixels import to_pixels
from torch import Tensor

from mlclip.checkpoint import Run
from mlclip.data import Dataset
from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import FeatureCache
from mlclip.errors import ExportError, MlclipError
from mlclip.files import read_file
from mlclip.metrics import mean_average_precision
from mlclip.settings import ThresholdConfig
from mlclip.thresholds import select
from mlclip.training.runs import split_scores, train_run, unpromised
from mlclip.training.trust import calibrate_run, measure_novelty
from mlclip.tune.space import base_recipe
from mlclip_export.graphs import FILE
from mlclip_export.options import Precision, ReduceOptions
from mlclip_export.parity import Graph, open_graph
from mlclip_export.quantize import attempts, quantize

Selection = tuple[float, Any]
"""Macro mAP of a run on its validation images, and the labels that it selects, bool [R, N]."""


@dataclass(frozen=True)
class Judged:
    """A head through a reduced encoder in one runtime, on its validation images."""

    left: str  # what of the encoder stayed in float32
    head: str
    reads: tuple[str, ...]  # the encoder's outputs that the head reads
    runtime: str
    before: float  # macro mAP with float32, and `after` with the reduced encoder; in [0, 1]
    after: float
    agreement: float  # labels that both select, as a share of those that either selects
    passed: bool  # whether the loss and the agreement are within the options


class ReducedEncoder:
    """An encoder whose image features come from a graph and have a cache of their own; all else is the encoder's."""

    def __init__(self, encoder: Encoder, path: Path, runtime: str, precision: Precision) -> None:
        self._encoder, self.path, self._kind = encoder, path, f"{runtime} {precision}"
        openvino = runtime == "openvino"
        self._session: Any = OpenVino(path, precision=precision) if openvino else open_graph(path.parent.name, path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels uint8 [B, S, S, 3] to embedding [B, D] and tokens [B, T, W]."""
        return tuple(map(torch.from_numpy, self._session.run(["embedding", "tokens"], {"pixels": pixels.numpy()})))

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of file, runtime and precision: equal digests mean equal features of images."""
        files = b"".join(path.read_bytes() for path in sorted(self.path.parent.iterdir()))
        return hashlib.sha256(self._kind.encode() + files).hexdigest()[:16]


@dataclass(frozen=True)
class Reduction:
    """How encoders are reduced."""

    options: ReduceOptions  # the precision, and what the gate accepts
    data: Mapping[str, Dataset]  # data set of each run, by the run's name
    cache: Path  # folder of the features cache
    on_judged: Callable[[Sequence[Judged]], None] = lambda judged: None  # called with the results of each attempt

    def __call__(self, encoder: Encoder, graph: Graph, runs: Mapping[str, Run]) -> tuple[Graph, dict[str, Run]]:
        """Reduce an encoder's graph; give the graph to write and the runs, trained again where that helps.

        Raises ExportError if a library is missing, or no attempt passes the gate.
        """
        float32 = {name: self._selected(name, run, encoder) for name, run in runs.items()}
        for left, folder in self._candidates(encoder, graph, runs):
            try:
                found, judged = self._judge(left, encoder, folder, runs, float32)
            except (RuntimeError, ValueError) as error:  # a runtime cannot run the graph, or answers nonsense
                raise ExportError(
                    f"{graph.model}: {' '.join(str(error).split())[-300:]}; nothing was written"
                ) from error
            self.on_judged(judged)
            if all(one.passed for one in judged):
                return replace(graph, folder=folder, rebuild=None), found
        worst = min(judged, key=lambda one: (one.after - one.before, one.agreement))
        raise ExportError(
            f"{graph.model} in {self.options.precision} changes head {worst.head} in {worst.runtime} too much: "
            f"{100 * (worst.before - worst.after):.2f} points of mAP lost, {worst.agreement:.3f} label agreement; "
            "nothing was written (--max-map-loss and --min-agreement allow more, --refit trains "
            "the heads again)"
        )

    def _candidates(self, encoder: Encoder, graph: Graph, runs: Mapping[str, Run]) -> Iterator[tuple[str, Path]]:
        """Give folders with reduced graphs, those that leave the least in float32 first."""
        if self.options.precision == "bf16":
            yield "", graph.folder
            return
        paths = sorted({item.path for name in runs for item in self.data[name].split("train").items})
        chosen = random.Random(0).sample(paths, min(len(paths), self.options.calibration))
        images = np.stack([to_pixels(read_file(path), encoder.spec) for path in chosen])
        for number, (left, nodes) in enumerate(attempts(graph.folder / FILE).items()):
            folder = graph.folder.with_name(f"{graph.folder.name}.int8-{number}")
            folder.mkdir()
            quantize(graph.folder / FILE, folder, images, nodes)
            yield left, folder

    def _judge(
        self, left: str, encoder: Encoder, folder: Path, runs: Mapping[str, Run], float32: Mapping[str, Selection]
    ) -> tuple[dict[str, Run], list[Judged]]:
        kind = self.options.precision
        reduced = {name: ReducedEncoder(encoder, folder / FILE, name, kind) for name in _runtimes(kind)}
        first = next(iter(reduced.values()))
        found = (
            {name: self._refitted(name, run, first) for name, run in runs.items()} if self.options.refit else dict(runs)
        )
        judged = []
        for name, run in runs.items():
            average, selected = float32[name]
            for runtime, other in reduced.items():
                after, chosen = self._selected(name, _through(found[name], other), other)
                both, either = (selected & chosen).sum(), (selected | chosen).sum()
                agreement = float(both / either) if either else 1.0
                lost = 100 * (average - after)
                passed = lost <= self.options.max_map_loss and agreement >= self.options.min_agreement
                judged.append(Judged(left, name, tuple(run.head.inputs), runtime, average, after, agreement, passed))
        return found, judged

    def _selected(self, name: str, run: Run, encoder: Any) -> Selection:
        """Macro mAP of a run on its validation images, and the labels that it selects, bool [R, N]."""
        targets, scores = split_scores(run, self.data[name], self._features(encoder), "val")
        average = mean_average_precision(targets, scores)
        if average is None:
            raise ExportError(f"head {name}: no validation image has one of its labels, so nothing tells what is lost")
        return average, select(scores, run.thresholds)

    def _features(self, encoder: Any) -> FeatureCache:
        """Open the features cache; what only the gate reads goes into the scratch folder."""
        kept = self.options.refit or isinstance(encoder, Encoder)
        return FeatureCache(encoder, self.cache if kept else encoder.path.parents[1] / "features")

    def _refitted(self, name: str, run: Run, encoder: Any) -> Run:
        """Train a run's head again on the reduced features, and keep it if its validation mAP is better."""
        if run.head.trains_encoder:
            return run
        data = self.data[name].with_classes(run.labels)
        try:
            recipe = replace(base_recipe(run), thresholds=ThresholdConfig(**run.training["thresholds"]))
            made = train_run(data, encoder, self._features(encoder), recipe)
        except MlclipError as error:
            raise ExportError(f"head {name} cannot be trained again: {error}; leave --refit out") from error
        if run.calibration is not None:
            made, _ = calibrate_run(made, data, self._features(encoder))
        if run.novelty is not None:
            made = measure_novelty(made, data, self._features(encoder))
        made = replace(made, encoder=run.encoder, training=unpromised(run).training | made.training)
        pair = [self._selected(name, _through(one, encoder), encoder)[0] for one in (run, made)]
        return made if pair[1] > pair[0] else run


def _through(run: Run, encoder: Any) -> Run:
    """A run that reads another encoder's features."""
    return replace(run, encoder=replace(run.encoder, fingerprint=encoder.fingerprint))


def _runtimes(precision: Precision) -> list[str]:
    """Name the runtimes that serve a precision, of those that are installed."""
    openvino = importlib.util.find_spec("openvino") is not None
    if precision == "int8":
        return ["onnxruntime", "openvino"] if openvino else ["onnxruntime"]
    if not openvino:
        raise ExportError("--precision bf16 needs OpenVINO: pip install 'mlclip[quantize]'")
    if not bfloat16_in_openvino():
        raise ExportError("this CPU has no bfloat16, so its effect cannot be measured: export on one that has it")
    return ["openvino"]


def bfloat16_in_openvino() -> bool:
    """Whether OpenVINO calculates in bfloat16 on this CPU; without, it would take float32 in silence."""
    core = importlib.import_module("openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
