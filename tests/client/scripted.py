"""A scripted server: what no real one does on request."""

import hashlib
import json

import grpc
import numpy as np
from mlclip_client.errors import from_rpc
from mlclip_client.server.pool import EndpointPool
from mlclip_client.session import Session, SessionOptions
from tritonclient.grpc import service_pb2


class Failed(grpc.RpcError):
    """A finished call's error."""

    def __init__(self, code, details):
        self.code, self.details = (lambda: code), (lambda: details)


class Scripted:
    """A transport that answers from configurations, with zeros for scores."""

    drops = 0

    def __init__(self, configs, version="1", versions=None):
        self.configs, self.version, self.versions, self.asked = configs, version, versions or {}, []
        self.sent, self.reads = [], 0

    def version_of(self, model):
        return self.versions.get(model, self.version)

    async def work(self, function):
        return function()

    async def call(self, rpc, request):
        if rpc == "RepositoryIndex":
            self.reads += 1
            reply = service_pb2.RepositoryIndexResponse()
            for name in self.configs:
                reply.models.add(name=name, version=self.version_of(name), state="READY")
            return reply
        if rpc == "ModelConfig":
            return service_pb2.ModelConfigResponse(config=self.configs[request.name])
        self.asked.append((request.model_name, [output.name for output in request.outputs]))
        names = [tensor.name for tensor in request.inputs]
        self.sent.append(dict(zip(names, request.raw_input_contents, strict=True)))
        return self.infer(request)

    def infer(self, request):
        if request.model_name not in self.configs:
            raise from_rpc(Failed(grpc.StatusCode.NOT_FOUND, "has no available versions"), "here:1", 1)
        model = request.model_name
        reply = service_pb2.ModelInferResponse(model_name=model, model_version=self.version_of(model))
        sizes = {output.name: output.dims[0] for output in self.configs[request.model_name].output}
        for output in request.outputs:
            kind, type_ = ("BOOL", bool) if output.name.endswith("selected") else ("FP32", np.float32)
            reply.outputs.add(name=output.name, datatype=kind, shape=[1, sizes[output.name]])
            reply.raw_output_contents.append(np.zeros(sizes[output.name], type_).tobytes())
        return reply


def session(transport, heads=("color",), embeddings=False):
    return Session(SessionOptions(heads, embeddings=embeddings), EndpointPool({"here:1": transport}))


def rename(config, labels):
    """Give a head's configuration other labels."""
    config.parameters["labels"].string_value = json.dumps(labels)
    config.parameters["labels_sha256"].string_value = digest_of(labels)


def digest_of(labels):
    return hashlib.sha256("".join(f"{label}\n" for label in labels).encode()).hexdigest()
