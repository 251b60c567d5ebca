"""The models of a repository: which there are, and which config and files each consists of."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlclip_client import pixels
from mlclip_client.pixels import PixelSpec
from tritonclient.grpc import model_config_pb2 as pb

from mlclip.checkpoint import Run, labels_file, references_file
from mlclip_export.configs import (
    encoder_config,
    head_config,
    preprocess_config,
    python_head_config,
    references_config,
    text_encoder_config,
    threshold_config,
    tokenize_config,
)
from mlclip_export.ensembles import LABELS, VIAS, FirstSteps, combined_config, ensemble_config
from mlclip_export.facts import CONFIG, Facts, HeadFacts
from mlclip_export.gpu_variants import ONNX_VARIANTS, VARIANTS, Variant
from mlclip_export.options import ConfigOptions
from mlclip_export.parity import CheckedGraph
from mlclip_export.repository import Model
from mlclip_export.tensorrt import Plan

_SERVED = Path(__file__).parent / "served"


@dataclass(frozen=True)
class Layout:
    """The contents of a repository after an export."""

    facts: Facts  # the whole repository
    runs: Mapping[str, Run]  # the runs of this export, by their names in the repository
    graphs: Mapping[str, CheckedGraph]  # the graphs of this export, by their models' names
    options: ConfigOptions  # settings of the configs
    default: Variant = "cpu"  # the variant that becomes config.pbtxt; with `plan`, plans are built
    tensorrt: str = ""  # TensorRT's version, for plans

    def models(self) -> list[Model]:
        """List the models to write, each after the models that it uses."""
        models = [*self._preprocess(), *self._tokenize()]
        for tag, encoder in self.facts.encoders.items():
            if graph := self.graphs.get(f"encoder_{tag}"):
                models.append(self._accelerated(graph, partial(encoder_config, encoder, self.options)))
            if graph := self.graphs.get(f"text_encoder_{tag}"):
                models.append(self._accelerated(graph, partial(text_encoder_config, encoder, self.options)))
        for name, run in self.runs.items():
            models += self._head(self.facts.heads[name], run)
        return [*models, *self._ensembles()]

    def _preprocess(self) -> Iterator[Model]:
        files = {"model.py": (_SERVED / "preprocess.py").read_bytes(), "pixels.py": Path(pixels.__file__).read_bytes()}
        for spec, name in preprocess_names(self.facts).items():
            max_batch = max(e.max_batch for e in self.facts.encoders.values() if e.spec == spec)
            yield Model({CONFIG: preprocess_config(name, spec, max_batch, self.options)}, files=files)

    def _tokenize(self) -> Iterator[Model]:
        files = {"model.py": (_SERVED / "tokenize.py").read_bytes()}
        for length, name in tokenize_names(self.facts).items():
            readers = [e for e in self.facts.encoders.values() if e.text and e.text.token_count == length]
            max_batch = max(encoder.max_batch for encoder in readers)
            yield Model({CONFIG: tokenize_config(name, length, max_batch)}, files=files)

    def _head(self, head: HeadFacts, run: Run) -> Iterator[Model]:
        encoder, graph = self.facts.encoders[head.encoder], self.graphs[f"head_{head.name}"]
        if graph.parameters is None:
            yield self._accelerated(graph, partial(head_config, head, encoder, self.options))
        else:
            yield Model({CONFIG: python_head_config(head, encoder, graph.parameters)}, graph)
        yield Model({CONFIG: threshold_config(head, encoder)}, self.graphs[f"threshold_{head.name}"])
        if head.references:
            source = (_SERVED / "references.py").read_bytes()
            files = {"model.py": source, "references.jsonl": references_file(run)}
            yield Model({CONFIG: references_config(head)}, files=files)

    def _accelerated(self, graph: CheckedGraph, config: Callable[[Variant], pb.ModelConfig]) -> Model:
        default = config(self.default)
        variants = VARIANTS if self.default == "plan" else ONNX_VARIANTS
        configs = {f"configs/{variant}.pbtxt": config(variant) for variant in variants}
        plan = Plan(default, self.options.fp16, self.tensorrt) if self.default == "plan" else None
        return Model({CONFIG: default, **configs}, graph, plan=plan)

    def _ensembles(self) -> Iterator[Model]:
        preprocess, tokenize = preprocess_names(self.facts), tokenize_names(self.facts)
        first = {
            tag: FirstSteps(preprocess[encoder.spec], tokenize[encoder.text.token_count] if encoder.text else "")
            for tag, encoder in self.facts.encoders.items()
        }
        for head in self.facts.heads.values():
            encoder, labels = self.facts.encoders[head.encoder], {LABELS: labels_file(head.labels)}
            for via in VIAS:
                yield Model({CONFIG: ensemble_config(head, encoder, first[encoder.tag], via)}, beside=labels)
        for tag, encoder in self.facts.encoders.items():
            heads = self.facts.heads_on(tag)
            for via in VIAS:
                yield Model({CONFIG: combined_config(heads, encoder, first[tag], via)})


def preprocess_names(facts: Facts) -> dict[PixelSpec, str]:
    """Name the preprocessing models.

    There is nearly always one, `preprocess`. If encoders read different pixels, `preprocess` keeps its pixels, and
    the others are named after theirs.
    """
    specs = list(dict.fromkeys(encoder.spec for _, encoder in sorted(facts.encoders.items())))
    first = facts.preprocess if facts.preprocess in specs or (facts.unreadable and facts.preprocess) else specs[0]
    return {spec: "preprocess" if spec == first else _long_name(spec) for spec in specs}


def tokenize_names(facts: Facts) -> dict[int, str]:
    """Name the models that make token ids: `tokenize`, and the others after their context lengths."""
    lengths = sorted({encoder.text.token_count for encoder in facts.encoders.values() if encoder.text})
    first = facts.tokenize if facts.tokenize in lengths else next(iter(lengths), None)
    return {length: "tokenize" if length == first else f"tokenize_{length}" for length in lengths}


def _long_name(spec: PixelSpec) -> str:
    fast = "" if spec.decode == "exact" else f"_{spec.decode}"
    return f"preprocess_{spec.size}_{spec.resize_mode}_{spec.interpolation}_{spec.fill}{fast}"
