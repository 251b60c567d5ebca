"""What no real server does on request: answers of a scripted one."""

import grpc
import numpy as np
import pytest
from mlclip_client import BadImage, Client, DeadlineExceeded, ServerError, ServerUnavailable, UnknownHead
from mlclip_client.errors import ClientError, from_rpc
from mlclip_client.session import Options, Session, in_order
from mlclip_client.transport import finish
from tritonclient.grpc import service_pb2


class Scripted:
    """A transport that answers from configurations, with zeros for scores."""

    def __init__(self, configs, version="1"):
        self.configs, self.version, self.asked = configs, version, []

    async def work(self, function):
        return function()

    async def call(self, rpc, request):
        if rpc == "RepositoryIndex":
            reply = service_pb2.RepositoryIndexResponse()
            for name in self.configs:
                reply.models.add(name=name, version=self.version, state="READY")
            return reply
        if rpc == "ModelConfig":
            return service_pb2.ModelConfigResponse(config=self.configs[request.name])
        self.asked.append((request.model_name, [output.name for output in request.outputs]))
        return self.infer(request)

    def infer(self, request):
        reply = service_pb2.ModelInferResponse(model_name=request.model_name, model_version=self.version)
        sizes = {output.name: output.dims[0] for output in self.configs[request.model_name].output}
        for output in request.outputs:
            kind, type_ = ("BOOL", bool) if output.name.endswith("selected") else ("FP32", np.float32)
            reply.outputs.add(name=output.name, datatype=kind, shape=[1, sizes[output.name]])
            reply.raw_output_contents.append(np.zeros(sizes[output.name], type_).tobytes())
        return reply


def session(transport, heads=("color",), embeddings=False, explain=False):
    return Session(Options(heads, "bytes", embeddings, explain, 1000), transport)


def test_only_wanted_outputs_are_asked_of_the_right_ensemble(tiny):
    transport = Scripted(tiny.configs())
    finish(session(transport, ("color",)).classify(b"x"))
    finish(session(transport, ("grid", "color"), embeddings=True).classify(b"x"))
    combined = ["grid_scores", "grid_selected", "color_scores", "color_selected", "embedding_out"]
    assert transport.asked == [("color_bytes", ["scores", "selected"]), ("heads_tiny_bytes", combined)]


def test_the_only_head_is_asked_when_none_is_named(tiny):
    configs = {name: config for name, config in tiny.configs().items() if "color" in name}
    assert list(finish(session(Scripted(configs), None).classify(b"x")).answers) == ["color"]


def test_without_combined_ensemble_each_head_is_asked_alone(tiny):
    configs = {name: config for name, config in tiny.configs().items() if not name.startswith("heads_")}
    transport = Scripted(configs)
    prediction = finish(session(transport, ("color", "grid"), embeddings=True).classify(b"x"))
    assert list(prediction.answers) == ["color", "grid"]
    assert transport.asked == [
        ("color_bytes", ["scores", "selected", "embedding_out"]),
        ("grid_bytes", ["scores", "selected"]),
    ]


def test_heads_of_two_encoders_are_asked_in_two_requests_but_give_no_single_embedding(tiny):
    configs = tiny.configs()
    for name in ("grid", "grid_bytes"):
        configs[name].parameters["encoder"].string_value = "other"
    transport = Scripted(configs)
    assert list(finish(session(transport, ("color", "grid")).classify(b"x")).answers) == ["color", "grid"]
    assert [model for model, _ in transport.asked] == ["color_bytes", "grid_bytes"]
    with pytest.raises(UnknownHead, match="embeddings need heads of one encoder"):
        finish(session(transport, ("color", "grid"), embeddings=True).classify(b"x"))


def test_a_new_version_on_the_server_brings_its_own_labels(tiny):
    transport = Scripted(tiny.configs())
    asking = session(transport)
    assert finish(asking.classify(b"x")).answers["color"].labels[0] == "red"
    renamed = ("crimson", *tiny.labels["color"][1:])
    for name in ("color", "color_bytes"):
        rename(transport.configs[name], renamed)
    transport.version = "2"
    answer = finish(asking.classify(b"x")).answers["color"]
    assert (answer.labels, answer.version) == (renamed, "2")


def rename(config, labels):
    import hashlib
    import json

    config.parameters["labels"].string_value = json.dumps(labels)
    digest = hashlib.sha256("".join(f"{label}\n" for label in labels).encode()).hexdigest()
    config.parameters["labels_sha256"].string_value = digest


def test_versions_that_never_agree_are_an_error(tiny):
    transport = Scripted(tiny.configs())
    plain = transport.infer

    def moving(request):
        reply = plain(request)
        reply.model_version = "99"
        return reply

    transport.infer = moving
    with pytest.raises(ServerError, match="change faster"):
        finish(session(transport).classify(b"x"))
    assert len(transport.asked) == 2


@pytest.mark.parametrize("cut", ["scores", "selected"])
def test_reply_of_another_size_is_an_error(tiny, cut):
    transport = Scripted(tiny.configs())
    for output in transport.configs["color_bytes"].output:
        if output.name == cut:
            output.dims[0] -= 1
    with pytest.raises(ServerError, match=rf"color_bytes answered shape \[1, 3\] for {cut}, not \[1, 4\]"):
        finish(session(transport).classify(b"x"))


@pytest.mark.parametrize(
    ("key", "text"),
    [("labels", '["a"]'), ("thresholds", "[1]"), ("labels_sha256", "0"), ("image_size", "?"), ("fill", None)],
)
def test_configuration_that_contradicts_itself_is_named(tiny, key, text):
    configs = tiny.configs()
    if text is None:
        del configs["color"].parameters[key]
    else:
        configs["color"].parameters[key].string_value = text
    with pytest.raises(ServerError, match="configuration of model 'color' is not usable"):
        finish(session(Scripted(configs)).classify(b"x"))


def test_head_without_the_ensemble_that_is_needed_is_named(tiny):
    configs = tiny.configs()
    del configs["color_bytes"]
    with pytest.raises(ServerError, match="no ready ensemble that takes bytes for head 'color'"):
        finish(session(Scripted(configs)).classify(b"x"))


class Failed(grpc.RpcError):
    """A finished call's error."""

    def __init__(self, code, details):
        self.code, self.details = (lambda: code), (lambda: details)


@pytest.mark.parametrize(
    ("code", "details", "wanted", "message"),
    [
        ("UNAVAILABLE", "Connection refused", ServerUnavailable, "no server answers at here:1: Connection refused"),
        ("CANCELLED", "gone", ServerUnavailable, "no server answers at here:1: gone"),
        ("DEADLINE_EXCEEDED", "late", DeadlineExceeded, "no answer from here:1 within 2.5 s"),
        ("INTERNAL", "in ensemble 'x', bad image: the file\nis empty", BadImage, "the file is empty"),
        ("INVALID_ARGUMENT", "bad shape", ServerError, "here:1 answered INVALID_ARGUMENT: bad shape"),
        ("UNKNOWN", None, ServerError, "here:1 answered UNKNOWN: no details"),
    ],
)
def test_grpc_status_becomes_one_of_our_errors(code, details, wanted, message):
    error = from_rpc(Failed(grpc.StatusCode[code], details), "here:1", 2.5)
    assert type(error) is wanted
    assert str(error).startswith(message)


def test_every_error_kind_has_its_own_word():
    def below(kind):
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    words = [kind.kind for kind in below(ClientError)]
    assert len(words) == len(set(words)) == 11


@pytest.mark.parametrize(
    "wrong",
    [{"heads": "mld"}, {"heads": ()}, {"heads": ("a", "a")}, {"timeout": 0}, {"via": "fax"}, {"max_bytes": 0}],
)
def test_wrong_arguments_are_value_errors(wrong):
    with pytest.raises(ValueError, match=r"must|sequence of names"):
        Client("127.0.0.1:1", **wrong)


def test_wrong_concurrency_is_noticed_at_once():
    with Client("127.0.0.1:1") as client, pytest.raises(ValueError, match="concurrency"):
        client.classify_many([], concurrency=0)


class Ended:
    def __init__(self, number, ended):
        self.number, self.ended = number, ended

    def done(self):
        return self.ended


def test_what_has_ended_is_handed_out_before_more_is_read():
    read = []

    def items():
        for number in range(3):
            read.append(number)
            yield number

    handed = in_order(lambda number: Ended(number, True), items(), window=10)
    assert (next(handed).number, read) == (0, [0])
    slow = in_order(lambda number: Ended(number, False), range(5), window=3)
    assert [work.number for work in slow] == [0, 1, 2, 3, 4]
