"""What no real server does on request: answers of a scripted one."""

import grpc
import numpy as np
import pytest
from mlclip_client import BadImage, Client, DeadlineExceeded, ServerError, ServerUnavailable, UnknownHead
from mlclip_client.errors import ClientError, NoAnswer, ServerBusy, TooLarge, from_rpc
from mlclip_client.server.pool import EndpointPool
from mlclip_client.server.transport import finish
from mlclip_client.session import Session, SessionOptions

from .scripted import Failed, Scripted, rename, session


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


@pytest.mark.parametrize("via", ["bytes", "pixels"])
def test_an_answer_bears_the_version_of_the_heads_own_ensemble_that_takes_images_the_same_way(tiny, via):
    versions = {"heads_tiny": "7", "heads_tiny_bytes": "9", "color": "3", "color_bytes": "4"}
    transport = Scripted(tiny.configs(), versions=versions)
    asking = Session(SessionOptions(("color", "grid"), via), EndpointPool({"here:1": transport}))
    image = b"x" if via == "bytes" else np.zeros((8, 8, 3), np.uint8)
    answers = finish(asking.classify(image)).answers
    wanted = {"color": "4" if via == "bytes" else "3", "grid": "1"}
    assert {name: answer.version for name, answer in answers.items()} == wanted
    for heads in (asking.asked(), asking.served(), asking.served(("grid", "color"))):
        assert {head.name: head.version for head in finish(heads)} == wanted
    assert {answer.model for answer in answers.values()} == {"heads_tiny" + "_bytes" * (via == "bytes")}


def test_a_combined_ensemble_that_moves_under_way_is_asked_again_with_what_it_holds_now(tiny):
    transport = Scripted(tiny.configs())
    asking = session(transport, ("color", "grid"))
    finish(asking.classify(b"x"))
    transport.versions = {"heads_tiny_bytes": "2", "color_bytes": "2"}
    answers = finish(asking.classify(b"x")).answers
    assert [answers[head].version for head in ("color", "grid")] == ["2", "1"]
    assert (len(transport.asked), transport.reads) == (3, 2)


def test_each_of_two_servers_is_asked_for_the_ensembles_that_it_has_itself(tiny):
    one = Scripted(tiny.configs(), versions={"heads_tiny_bytes": "7"})
    two = Scripted({name: config for name, config in tiny.configs().items() if not name.startswith("heads_")})
    asking = Session(SessionOptions(("color", "grid")), EndpointPool({"one:1": one, "two:1": two}))
    predictions = [finish(asking.classify(b"x")) for _ in range(2)]
    assert {answer.version for each in predictions for answer in each.answers.values()} == {"1"}
    assert [[model for model, _ in server.asked] for server in (one, two)] == [
        ["heads_tiny_bytes"],
        ["color_bytes", "grid_bytes"],
    ]


def test_a_model_that_is_gone_under_way_counts_as_a_server_that_is_away(tiny):
    """As when Triton stops, and unloads its models before it closes its port."""
    leaving, other = Scripted(tiny.configs()), Scripted(tiny.configs())
    asking = Session(SessionOptions(("color",)), EndpointPool({"a:1": leaving, "b:1": other}))
    finish(asking.asked())
    leaving.configs = {}
    predictions = [finish(asking.classify(b"x")) for _ in range(6)]
    assert {prediction.answers["color"].version for prediction in predictions} == {"1"}
    alone = session(leaving)
    with pytest.raises(UnknownHead, match=r"here:1 has no head 'color' \(it has: none\)"):
        finish(alone.classify(b"x"))


def test_a_head_that_a_lone_server_gives_up_makes_it_unavailable_and_its_return_is_noticed(tiny):
    transport = Scripted(tiny.configs())
    asking, configs = session(transport), transport.configs
    finish(asking.classify(b"x"))
    transport.configs = {name: config for name, config in configs.items() if "color" not in name}
    transport.drops = 1
    for _ in range(2):
        with pytest.raises(ServerUnavailable, match="here:1 has no head 'color'"):
            finish(asking.classify(b"x"))
    transport.configs = configs
    assert finish(asking.classify(b"x")).answers["color"].version == "1"


def test_once_an_image_was_given_up_a_new_version_elsewhere_will_do(tiny):
    stays, dies = Scripted(tiny.configs()), Scripted(tiny.configs())
    asking = Session(SessionOptions(("color",)), EndpointPool({"a:1": stays, "b:1": dies}))
    finish(asking.classify(b"x"))
    stays.version, dies.configs = "2", {}
    with pytest.raises(ServerUnavailable):
        finish(asking.classify(b"x"))
    assert finish(asking.classify(b"x")).answers["color"].version == "2"


def test_what_is_served_is_read_once_and_again_after_the_connection_broke(tiny):
    transport = Scripted(tiny.configs())
    asking = session(transport)
    for _ in range(3):
        finish(asking.classify(b"x"))
    assert transport.reads == 1
    transport.drops, renamed = 1, ("crimson", *tiny.labels["color"][1:])
    for name in ("color", "color_bytes"):
        rename(transport.configs[name], renamed)
    assert finish(asking.classify(b"x")).answers["color"].labels == renamed
    assert transport.reads == 2


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


@pytest.mark.faults
@pytest.mark.parametrize(
    ("key", "text"),
    [("labels", '["a"]'), ("thresholds", "[1]"), ("labels_sha256", "0"), ("image_size", "?"), ("fill", None)],
)
def test_configuration_that_contradicts_itself_is_named(tiny, key, text):
    """The other heads are served as before."""
    configs = tiny.configs()
    for model in ("color", "color_bytes"):
        if text is None:
            del configs[model].parameters[key]
        else:
            configs[model].parameters[key].string_value = text
    for heads, message in ((("color",), "here:1 has no head 'color'"), (None, "name the heads to ask")):
        with pytest.raises(UnknownHead, match=f"{message}.*grid.*; the configuration of model 'color' is not usable"):
            finish(session(Scripted(configs), heads).classify(b"x"))
    assert set(finish(session(Scripted(configs), ("grid",)).classify(b"x")).answers) == {"grid"}


def test_head_without_the_ensemble_that_is_needed_is_named(tiny):
    configs = tiny.configs()
    del configs["color_bytes"]
    with pytest.raises(ServerError, match="no ready ensemble that takes bytes for head 'color'"):
        finish(session(Scripted(configs)).classify(b"x"))


@pytest.mark.parametrize(
    ("code", "details", "wanted", "message"),
    [
        ("UNAVAILABLE", "Connection refused", ServerUnavailable, "no server answers at here:1: Connection refused"),
        ("NOT_FOUND", "'x' has no available versions", ServerUnavailable, "here:1 has unloaded the model: 'x' has no"),
        ("CANCELLED", "gone", ServerUnavailable, "no server answers at here:1: gone"),
        ("DEADLINE_EXCEEDED", "late", DeadlineExceeded, "no answer from here:1 within 2.5 s"),
        ("INTERNAL", "in ensemble 'x', bad image: the file\nis empty", BadImage, "the file is empty"),
        ("INTERNAL", "x, bad image: the image is too large: 7 bytes", TooLarge, "the image is too large: 7 bytes"),
        ("INTERNAL", "Stub process 'a' is not healthy.", ServerUnavailable, "here:1: a model's process has died: Stub"),
        ("INTERNAL", "Failed to increase the shared memory pool", ServerBusy, "here:1: its shared memory is full: "),
        ("UNAVAILABLE", "Request timeout expired", ServerBusy, "here:1: the request waited too long in its queue: "),
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

    words = [kind.kind for kind in below(ClientError) if kind is not NoAnswer]
    assert len(words) == len(set(words)) == 13


@pytest.mark.parametrize(
    "wrong",
    [{"heads": "mld"}, {"heads": ()}, {"heads": ("a", "a")}, {"timeout": 0}, {"via": "fax"}, {"max_bytes": 0}],
)
def test_wrong_arguments_are_value_errors(wrong):
    with pytest.raises(ValueError, match=r"must|sequence of names|at least one head, and each once"):
        Client("127.0.0.1:1", **wrong)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1", r"127\.0\.0\.1 has no port: give host:port, such as 127\.0\.0\.1:8001"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000: give host:port alone, the port of Triton's gRPC"),
        ("https://triton.example", "give host:port alone"),
        ("triton:80a", "from 1 to 65535"),
        ("triton:0", "from 1 to 65535"),
        ("triton:65536", "from 1 to 65535"),
        ("triton:8001/v2", "from 1 to 65535"),
        ("::1:8001", r"an IPv6 address in brackets, such as \[::1\]:8001"),
        (":8001", "give host:port"),
        ("", "has no port"),
    ],
)
def test_a_wrong_address_is_refused_with_what_to_give(url, reason):
    with pytest.raises(ValueError, match=reason):
        Client(("127.0.0.1:8001", url))


@pytest.mark.parametrize("url", ["[::1]:8001", "triton.example:1", "unix:/run/triton.sock", "dns:///triton:8001"])
def test_what_grpc_parses_itself_is_an_address(url):
    Client(url).close()


def test_wrong_concurrency_is_noticed_at_once():
    with Client("127.0.0.1:1") as client, pytest.raises(ValueError, match="concurrency"):
        client.classify_many([], concurrency=0)
