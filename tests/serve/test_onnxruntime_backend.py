"""The backend's own logic, without Triton."""

import numpy as np
import pytest
from mlclip_serve import onnxruntime_backend as backend

from .conftest import write_encoder, write_picky


class CountingSession:
    """Passes runs on to a session and remembers what was asked."""

    def __init__(self, session):
        self.session = session
        self.runs = []

    def run(self, names, feed):
        self.runs.append((list(names), {name: array.shape for name, array in feed.items()}))
        return self.session.run(names, feed)


def picky(tmp_path):
    return CountingSession(backend.open_session(write_picky(tmp_path / "picky"), {}))


def index(*rows):
    return {"index": np.array(rows, dtype=np.int64)[:, None]}


def test_requests_of_one_shape_become_one_run_of_the_union_of_outputs(tmp_path):
    session = picky(tmp_path)
    answers = backend.run_requests(session, [index(0), index(1, 2), index(2)], [["same"], ["picked"], ["same"]], True)
    assert session.runs == [(["picked", "same"], {"index": (4, 1)})]
    assert [list(answer) for answer in answers] == [["same"], ["picked"], ["same"]]
    assert answers[1]["picked"].shape == (2, 2)
    np.testing.assert_array_equal(answers[2]["same"], [[2]])


def test_output_that_nobody_wants_is_not_fetched(tmp_path):
    session = picky(tmp_path)
    (answer,) = backend.run_requests(session, [index(1)], [["same"]], True)
    assert set(answer) == {"same"}
    assert session.runs == [(["same"], {"index": (1, 1)})]


def test_failing_request_is_the_only_one_without_an_answer(tmp_path):
    answers = backend.run_requests(picky(tmp_path), [index(0), index(9), index(2)], [["picked"]] * 3, True)
    assert isinstance(answers[1], str) and "\n" not in answers[1]
    assert answers[0]["picked"].shape == answers[2]["picked"].shape == (1, 2)


def test_other_shapes_run_apart_and_keep_their_order(tmp_path):
    class Echo:
        def run(self, names, feed):
            return [feed["x"]]

    session = CountingSession(Echo())
    feeds = [{"x": np.full((1, width), place)} for place, width in enumerate([2, 3, 2])]
    answers = backend.run_requests(session, feeds, [["y"]] * 3, True)
    assert [shapes["x"] for _, shapes in session.runs] == [(2, 2), (1, 3)]
    for feed, answer in zip(feeds, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], feed["x"])


def test_unbatched_requests_run_one_by_one(tmp_path):
    session = picky(tmp_path)
    backend.run_requests(session, [index(0), index(1)], [["same"]] * 2, False)
    assert len(session.runs) == 2


def test_output_without_a_batch_axis_is_an_error_not_a_wrong_answer():
    class Constant:
        def run(self, names, feed):
            return [np.zeros(3)]

    answers = backend.run_requests(Constant(), [{"x": np.zeros((1, 2))}] * 2, [["y"]] * 2, True)
    assert answers == ["output 'y' has no batch axis: shape [3] for a batch of 2"] * 2


def config(**parameters):
    return {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}


def test_thread_counts_come_from_the_config(tmp_path):
    wanted = config(intra_op_thread_count="3", inter_op_thread_count="2", execution_mode="1")
    options = backend.open_session(write_encoder(tmp_path / "encoder"), wanted).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == backend.onnxruntime.ExecutionMode.ORT_PARALLEL


def test_open_thread_count_is_the_number_of_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCLIP_CORES", "5")
    path = write_encoder(tmp_path / "encoder")
    threads = [
        backend.open_session(path, config(intra_op_thread_count=count)).get_session_options().intra_op_num_threads
        for count in ("0", "2")
    ]
    assert threads == [5, 2]


ASKS_OPENVINO = {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}}}


@pytest.mark.parametrize("precision", ["", "bf16"])
def test_model_that_asks_for_openvino_runs_there(tmp_path, precision):
    path = write_encoder(tmp_path / "encoder")
    session, other = (
        backend.open_session(path, ASKS_OPENVINO | config(precision=precision)),
        backend.open_session(path, {}),
    )
    assert isinstance(session, backend.OpenVino) and backend.ignored_accelerators(ASKS_OPENVINO) == []
    for side in ("get_inputs", "get_outputs"):
        described = [{(tensor.name, tensor.type) for tensor in getattr(given, side)()} for given in (session, other)]
        assert described[0] == described[1]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    first, second = (session.run(["embedding"], {"pixels": images})[0] for images in (pixels, pixels[:1]))
    (wanted,) = other.run(["embedding"], {"pixels": pixels})
    np.testing.assert_allclose(first, wanted, rtol=0, atol=1e-5 if not precision else 0.05)
    np.testing.assert_allclose(second, wanted[:1], rtol=0, atol=1e-5 if not precision else 0.05)


def test_without_openvino_the_model_runs_in_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert backend.ignored_accelerators(ASKS_OPENVINO) == ["openvino"]
    session = backend.open_session(write_encoder(tmp_path / "encoder"), ASKS_OPENVINO)
    assert isinstance(session, backend.onnxruntime.InferenceSession)


def test_parameter_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="intra_op_thread_count must be a whole number, not 'many'"):
        backend.open_session(write_encoder(tmp_path / "encoder"), config(intra_op_thread_count="many"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([("pixels", "TYPE_FP32")], [], r"input 'pixels' is tensor\(uint8\) in the ONNX file, tensor\(float\) in"),
        ([("pixels", "TYPE_STRING")], [], "TYPE_STRING is not supported"),
        ([], [], "the ONNX file needs input 'pixels'"),
        ([("pixels", "TYPE_UINT8")], [("logits", "TYPE_FP32")], "'logits' of config.pbtxt is not in the ONNX file"),
    ],
)
def test_config_that_disagrees_with_the_file_is_refused(tmp_path, inputs, outputs, message):
    session = backend.open_session(write_encoder(tmp_path / "encoder"), {})
    fields = {
        kind: [{"name": name, "data_type": data_type} for name, data_type in tensors]
        for kind, tensors in (("input", inputs), ("output", outputs))
    }
    with pytest.raises(ValueError, match=message):
        backend.check_config(fields, session)


def test_missing_weights_are_named(tmp_path):
    path = write_encoder(tmp_path / "encoder")
    (path.parent / "model.onnx.data").unlink()
    with pytest.raises(ValueError, match="model.onnx.data"):
        backend.open_session(path, {})
