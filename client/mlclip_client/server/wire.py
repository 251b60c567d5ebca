"""Requests and replies: from our values to protobuf messages of the KServe protocol, and back."""

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferResult, service_pb2

from mlclip_client.errors import ServerError
from mlclip_client.server.catalog import Route
from mlclip_client.values import Answer, Reference

EMBEDDING = "embedding_out"
REFERENCES = "references"
NOVELTY = "novelty"
_LENGTH_PREFIX = struct.Struct("<I")


def infer_request(
    route: Route,
    image: bytes | npt.NDArray[np.uint8],
    text: str | None,
    *,
    embeddings: bool = False,
    explain: bool = False,
) -> Any:
    """Build the request for one image: the file's bytes, or uint8 [S, S, 3] for an ensemble that takes `pixels`.

    The text is sent if a head reads it; `explain` asks the heads that can for the references behind their answers.
    """
    request = service_pb2.ModelInferRequest(model_name=route.ensemble.model)
    if isinstance(image, bytes):
        _add_bytes(request, "image", image)
    else:
        request.inputs.add(name="pixels", datatype="UINT8", shape=[1, *image.shape])
        request.raw_input_contents.append(image.tobytes())
    if text is not None and route.reads_text:
        _add_bytes(request, "text", text.encode(errors="replace"))
    for head in route.heads:
        for part in ("scores", "selected"):
            request.outputs.add(name=route.output(head, part))
        if explain and head.explains:
            request.outputs.add(name=route.output(head, REFERENCES))
        if head.novelty:
            request.outputs.add(name=route.output(head, NOVELTY))
    if embeddings:
        request.outputs.add(name=EMBEDDING)
    return request


def read_answers(route: Route, reply: Any) -> dict[str, Answer]:
    """Turn a reply into head name -> answer; raises ServerError if an output does not have one value per label.

    The caller has checked that the reply comes from the route's version of the ensemble. That version and the heads'
    were read together, so an answer carries the head's, which stays when other heads join a combined ensemble.
    """
    result = InferResult(reply)
    return {
        head.name: Answer(
            head=head.name,
            labels=head.labels,
            scores=_vector(result, route, route.output(head, "scores"), len(head.labels)),
            selected=_vector(result, route, route.output(head, "selected"), len(head.labels)),
            labels_sha256=head.labels_sha256,
            model=reply.model_name,
            version=head.version,
            references=_references(result.as_numpy(route.output(head, REFERENCES))),
            novelty=float(_vector(result, route, route.output(head, NOVELTY), 1)[0]) if head.novelty else None,
        )
        for head in route.heads
    }


def read_embedding(route: Route, reply: Any) -> npt.NDArray[np.float32]:
    """Take the embedding, float32 [D], out of a reply; raises ServerError if it is missing or of another length."""
    return _vector(InferResult(reply), route, EMBEDDING, route.heads[0].embedding_size)


def _add_bytes(request: Any, name: str, value: bytes) -> None:
    request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(_LENGTH_PREFIX.pack(len(value)) + value)


def _references(array: npt.NDArray[Any] | None) -> tuple[Reference, ...] | None:
    """Read the JSON that names references, BYTES [1, 1]; None if it was not asked for."""
    if array is None:
        return None
    found = json.loads(array[0, 0])
    return tuple(Reference(each["id"], tuple(each["labels"]), each["weight"]) for each in found)


def _vector(result: InferResult, route: Route, name: str, length: int) -> npt.NDArray[Any]:
    array = result.as_numpy(name)
    if array is None or array.shape != (1, length):
        found = "nothing" if array is None else f"shape {list(array.shape)}"
        raise ServerError(f"{route.ensemble.model} answered {found} for {name}, not [1, {length}]; export again")
    vector: npt.NDArray[Any] = array[0]
    return vector
