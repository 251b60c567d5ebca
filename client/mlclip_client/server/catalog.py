"""What a server serves, read from the configurations of its ensembles, and which of them to ask.

The `parameters` of an ensemble's configuration hold what a client must know; `model_repository/README.md` is the
contract. Nothing here talks to a server.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlclip_client.errors import ServerError, UnknownHead
from mlclip_client.options import Via
from mlclip_client.pixels import PixelSpec
from mlclip_client.values import HeadInfo

_VIA_OF_INPUT: dict[str, Via] = {"image": "bytes", "pixels": "pixels"}


@dataclass(frozen=True)
class Ensemble:
    """One served ensemble: where it takes images, and which heads it answers for."""

    model: str
    version: str  # the one that was ready when the catalog was read
    via: Via  # what it takes
    encoder: str
    heads: tuple[str, ...]
    combined: bool  # whether it serves several heads, with their names in the names of its outputs
    head: HeadInfo | None = None  # the only head, if this is the head's own ensemble


@dataclass(frozen=True)
class Catalog:
    """All ensembles and heads (by name) that a server has for this client.

    `broken` says what is wrong with each ensemble that is left out.
    """

    ensembles: tuple[Ensemble, ...]
    heads: dict[str, HeadInfo]
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """One request per image: the ensemble to ask, and which of its heads."""

    ensemble: Ensemble
    heads: tuple[HeadInfo, ...]

    @property
    def spec(self) -> PixelSpec:
        """How the pixels of the route's encoder are made."""
        return self.heads[0].spec

    @property
    def reads_text(self) -> bool:
        """Whether one of the heads reads texts."""
        return any(head.reads_text for head in self.heads)

    def output(self, head: HeadInfo, part: str) -> str:
        """Name the output tensor that holds `part` (`scores`, `selected`, `references`) of a head."""
        return f"{head.name}_{part}" if self.ensemble.combined else part


def read_catalog(models: Iterable[tuple[str, Any]]) -> Catalog:
    """Find the ensembles among all ready models, pairs of version and ModelConfig message.

    Models without `mlclip_kind` are left out, and ensembles whose configuration is incomplete or contradicts itself.
    """
    ensembles: list[Ensemble] = []
    broken: list[str] = []
    heads: dict[str, HeadInfo] = {}
    for version, config in models:
        parameters = parameters_of(config)
        if parameters.get("mlclip_kind") not in ("ensemble", "combined"):
            continue
        try:
            ensemble = _read_ensemble(version, config, parameters)
            ensembles.append(ensemble)
            if ensemble.head is not None:
                heads.setdefault(ensemble.head.name, ensemble.head)
        except (KeyError, ValueError, TypeError, IndexError, StopIteration) as error:
            broken.append(f"the configuration of model {config.name!r} is not usable ({error!r}); export it again")
    return Catalog(tuple(ensembles), heads, tuple(broken))


def parameters_of(config: Any) -> dict[str, str]:
    """Give the parameters of a ModelConfig message."""
    return {key: value.string_value for key, value in config.parameters.items()}


def choose_heads(catalog: Catalog, names: Sequence[str] | None, where: str = "the server") -> tuple[HeadInfo, ...]:
    """Look up heads by name; None means the only one there is. Raises UnknownHead, for the catalog of `where`."""
    served = ", ".join(sorted(catalog.heads)) or "none"
    reasons = "".join(f"; {reason}" for reason in catalog.broken)
    if names is None:
        if len(catalog.heads) != 1 or catalog.broken:
            raise UnknownHead(f"name the heads to ask ({where} has: {served}){reasons}")
        names = tuple(catalog.heads)
    missing = [name for name in names if name not in catalog.heads]
    if missing:
        raise UnknownHead(f"{where} has no head {', '.join(map(repr, missing))} (it has: {served}){reasons}")
    return tuple(catalog.heads[name] for name in names)


def taking(catalog: Catalog, heads: Sequence[HeadInfo], via: Via) -> tuple[HeadInfo, ...]:
    """Give the same heads in the versions of their own ensembles that take images this way.

    A head's two ensembles have versions of their own, since only one of them includes the server's preprocessing.
    Raises ServerError if a head has no ready ensemble that takes images this way.
    """
    return tuple(_own_ensemble(catalog, head, via).head or head for head in heads)


def plan_routes(catalog: Catalog, heads: Sequence[HeadInfo], via: Via) -> tuple[Route, ...]:
    """Decide which ensembles to ask, so that each encoder runs once per image.

    A single head of an encoder is asked through its own ensemble, several through the combined one. Without a combined
    ensemble that has them all, each head is asked alone, with the same answers and more work. A route's heads come from
    `taking`, so an answer carries the version of the head's own ensemble, no matter which ensemble gave it.
    """
    routes: list[Route] = []
    heads = taking(catalog, heads, via)
    for encoder in dict.fromkeys(head.encoder for head in heads):
        group = tuple(head for head in heads if head.encoder == encoder)
        names = {head.name for head in group}
        shared = [e for e in catalog.ensembles if e.combined and e.via == via and names <= set(e.heads)]
        if len(group) > 1 and shared:
            routes.append(Route(shared[0], group))
        else:
            routes.extend(Route(_own_ensemble(catalog, head, via), (head,)) for head in group)
    return tuple(routes)


def _own_ensemble(catalog: Catalog, head: HeadInfo, via: Via) -> Ensemble:
    for ensemble in catalog.ensembles:
        if not ensemble.combined and ensemble.via == via and ensemble.heads == (head.name,):
            return ensemble
    raise ServerError(f"the server has no ready ensemble that takes {via} for head {head.name!r}; look at its log")


def _read_ensemble(version: str, config: Any, parameters: dict[str, str]) -> Ensemble:
    combined = parameters["mlclip_kind"] == "combined"
    heads = tuple(json.loads(parameters["heads"])) if combined else (parameters["head"],)
    via = next(_VIA_OF_INPUT[tensor.name] for tensor in config.input if tensor.name in _VIA_OF_INPUT)
    head = None if combined else _read_head(version, config, parameters)
    return Ensemble(config.name, version, via, parameters["encoder"], heads, combined, head)


def _read_head(version: str, config: Any, parameters: dict[str, str]) -> HeadInfo:
    labels = tuple(json.loads(parameters["labels"]))
    thresholds = tuple(float(value) for value in json.loads(parameters["thresholds"]))
    digest = hashlib.sha256("".join(f"{label}\n" for label in labels).encode()).hexdigest()
    if len(labels) != len(thresholds):
        raise ValueError(f"{len(labels)} labels but {len(thresholds)} thresholds")
    if digest != parameters["labels_sha256"]:
        raise ValueError("labels and labels_sha256 differ")
    dims = {output.name: list(output.dims) for output in config.output}
    return HeadInfo(
        name=parameters["head"],
        labels=labels,
        labels_sha256=digest,
        thresholds=thresholds,
        encoder=parameters["encoder"],
        spec=PixelSpec.of(parameters),
        embedding_size=int(dims["embedding_out"][-1]),
        version=version,
        mlclip_version=parameters["mlclip_version"],
        explains="references" in dims,
        reads_text=any(tensor.name == "text" for tensor in config.input),
        calibrated=parameters.get("calibrated") == "true",
        promise=json.loads(parameters.get("promise", "null")),
        novelty="novelty" in dims,
        validation=json.loads(parameters.get("validation", "null")),
    )
