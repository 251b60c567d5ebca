"""No server: a repository's models in this process give the rows that Triton gives."""

import shutil
import sys
import threading
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from mlclip_client import Client
from mlclip_client.cpu import OpenVino
from mlclip_client.errors import BadImage, ServerError, UnknownHead
from mlclip_client.local.embedded import Embedded
from mlclip_client.local.repository import Batcher, EnsemblePlan, Repository, providers
from mlclip_client.pixels import to_pixels
from tritonclient.grpc import model_config_pb2 as pb

from .input_files import rows_of


@pytest.fixture
def copy(tiny, tmp_path):
    """The repository, to be changed."""
    shutil.copytree(tiny.root, tmp_path / "repository")
    return tmp_path / "repository"


def change(root, model, edit):
    file = root / model / "config.pbtxt"
    config = text_format.Parse(file.read_text(), pb.ModelConfig())
    edit(config)
    file.write_text(text_format.MessageToString(config))


@pytest.mark.parametrize("heads", [("color",), ("grid", "color")])
@pytest.mark.parametrize("via", ["bytes", "pixels"])
def test_rows_are_those_of_a_server(run, server, tiny, folder, tmp_path, assert_same_rows, heads, via):
    (folder / "03.jpg").write_bytes(b"no image")
    (folder / "05.jpg").write_bytes((folder / "07.jpg").read_bytes()[:60])
    (folder / "09.jpg").write_bytes(b"")
    asked = ["classify", folder, "--embeddings", "--scores", "--via", via, *(f"--head={head}" for head in heads)]
    results = {
        name: run(*asked, "--out", tmp_path / f"{name}.parquet", *where)
        for name, where in (("triton", ["--url", server.grpc_url]), ("here", ["--embedded", tiny.root]))
    }
    assert [result.exit_code for result in results.values()] == [3, 3], results["here"].stderr
    assert "40 inputs: 37 labelled, 3 with an error (3 decode)" in results["here"].stderr
    found, wanted = (rows_of(tmp_path / f"{name}.parquet") for name in ("here", "triton"))
    for row, other in zip(found, wanted, strict=True):
        for values, others in zip(taken(row), taken(other), strict=True):
            np.testing.assert_allclose(values, others, rtol=0, atol=1e-5)
    assert_same_rows(found, wanted)


def taken(row):
    """Take the vectors out of a row that may differ in their last digits."""
    return [row.pop("embedding"), *(answer.pop("all_scores") for answer in (row["answers"] or {}).values())]


def test_any_image_gets_the_answer_of_the_models_and_a_bad_one_an_error(tiny, files):
    with Embedded(tiny.root, heads=("color",)) as models:
        for image in (files[0], to_pixels(files[0], tiny.spec)):
            answer = models.classify(image).answers["color"]
            np.testing.assert_allclose(answer.scores, tiny.scores(files[0], "color"), rtol=0, atol=1e-5)
            assert (answer.selected == (answer.scores >= tiny.weights["color"].thresholds)).all()
        with pytest.raises(BadImage, match="the file is empty"):
            models.classify(b"")


def test_requests_that_wait_go_into_one_batch_and_each_gets_its_own_result():
    class Told:
        """A lock that tells how often it was let go."""

        def __init__(self):
            self.lock, self.count = threading.Lock(), threading.Semaphore(0)

        def __enter__(self):
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()
            self.count.release()

    batches, results, entered = [], {}, threading.Event()

    def work(things):
        batches.append(list(things))
        if things == [0]:
            entered.set()
            for _ in range(8):  # all seven were added, and this one was taken out
                assert told.count.acquire(timeout=60)
        if 3 in things:
            raise ServerError("broken")
        return [10 * thing for thing in things]

    def ask(thing):
        try:
            results[thing] = batcher.ask(thing)
        except ServerError as error:
            results[thing] = str(error)

    batcher = Batcher(work, max_batch=3)
    told = batcher._adding = Told()
    first = threading.Thread(target=ask, args=(0,))
    first.start()
    assert entered.wait(60)
    others = [threading.Thread(target=ask, args=(thing,)) for thing in range(1, 7)]
    for thread in others:
        thread.start()
    for thread in (first, *others):
        thread.join(60)
    assert batches[0] == [0] and sorted(map(len, batches)) == [1, 3, 3]
    fellows = next(batch for batch in batches if 3 in batch)
    assert results == {thing: "broken" if thing in fellows else 10 * thing for thing in range(7)}


def test_only_the_steps_behind_what_is_asked_run(copy, tiny, files):
    (copy / "head_grid/1/model.onnx").unlink()
    with Embedded(copy, heads=("color",), embeddings=True) as models:
        models.asked_heads()
        prediction = models.classify(files[0])
    np.testing.assert_allclose(prediction.answers["color"].scores, tiny.scores(files[0], "color"), rtol=0, atol=1e-5)
    config = tiny.configs()["heads_tiny"]
    ran = []
    repository = Repository(copy)
    steps = EnsemblePlan(repository, config, ("color_scores",))
    original = repository.run
    repository.run = lambda model, outputs, feeds: ran.append((model, outputs)) or original(model, outputs, feeds)
    steps.run([to_pixels(files[0], tiny.spec)])
    assert ran == [("encoder_tiny", ["embedding"]), ("head_color", ["logits"]), ("threshold_color", ["scores"])]
    several = steps.run([to_pixels(data, tiny.spec) for data in files[:5]])
    for data, made in zip(files, several, strict=False):
        np.testing.assert_allclose(made["color_scores"], [tiny.scores(data, "color")], rtol=0, atol=1e-5)


def test_a_head_that_needs_a_python_model_is_refused_by_name(run, copy, folder, tmp_path):
    (copy / "head_grid/1/model.onnx").rename(copy / "head_grid/1/model.py")
    both = ["--head", "color", "--head", "grid"]
    result = run("classify", folder, "--embedded", copy, *both, "--out", tmp_path / "o.jsonl")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: head 'grid' cannot run in this process: the model 'head_grid' is not an ONNX file, and runs in Triton "
        "only; ask a server for it\n",
    )


def test_explanations_that_a_python_model_gives_are_refused_and_the_rest_is_not(copy, files):
    def explain(config):
        config.output.add(name="references", data_type=pb.TYPE_STRING, dims=[1])
        step = config.ensemble_scheduling.step.add(model_name="references_color", model_version=-1)
        step.input_map["top_index"] = "top_index"
        step.output_map["references"] = "references"

    change(copy, "color_bytes", explain)
    change(copy, "color", explain)
    with Embedded(copy, heads=("color",)) as models:
        assert models.asked_heads()[0].explains
        assert models.classify(files[0]).answers["color"].references is None
    with (
        Embedded(copy, heads=("color",), explain=True) as models,
        pytest.raises(UnknownHead, match="head 'color' cannot .* 'references_color' is not an ONNX file"),
    ):
        models.asked_heads()


def test_the_newest_version_answers(copy, files):
    for ensemble in ("color", "color_bytes"):
        for version in ("2", "10"):
            (copy / ensemble / version).mkdir()
    newer = copy / "threshold_color/2"
    newer.mkdir()
    graph = onnx.load(copy / "threshold_color/1/model.onnx")
    for constant in graph.graph.initializer:
        if constant.name == "thresholds":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.full(4, -1, np.float32), "thresholds"))
    onnx.save(graph, newer / "model.onnx")
    with Embedded(copy, heads=("color",)) as models:
        answer = models.classify(files[0]).answers["color"]
    assert (answer.version, answer.selected.tolist()) == ("10", [True] * 4)


def test_a_model_that_cannot_be_loaded_stops_a_job_and_one_that_fails_is_an_error_row(run, copy, folder, tmp_path):
    arguments = ["classify", folder, "--embedded", copy, "--head", "color", "--job", tmp_path / "job"]
    change(copy, "threshold_color", lambda config: None)
    whole = (copy / "encoder_tiny/1/model.onnx").read_bytes()
    (copy / "encoder_tiny/1/model.onnx").write_bytes(whole[:100])
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: the model 'encoder_tiny' of {copy} cannot be loaded: ")
    assert "finished shards are kept" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    shutil.copy(copy / "head_grid/1/model.onnx", copy / "head_color/1/model.onnx")  # it wants tokens
    (copy / "encoder_tiny/1/model.onnx").write_bytes(whole)
    assert run(*arguments).exit_code == 1
    assert {row["error_kind"] for row in rows_of(tmp_path / "job/labels")} == {"server"}
    assert "the model 'head_color' of" in rows_of(tmp_path / "job/labels")[0]["error"]


def test_a_job_begun_with_a_server_goes_on_without_one(run, server, tiny, folder, tmp_path, assert_same_rows):
    (folder / "05.jpg").write_bytes(b"no image")
    job, wanted = tmp_path / "job", tmp_path / "wanted.parquet"
    begin = ["classify", folder, "--head", "grid", "--job", job, "--shard-rows", 8]
    assert run(*begin, "--url", server.grpc_url, "--out", wanted).exit_code == 3
    (job / "labels/000001.parquet").unlink()
    (job / "labels/000002.parquet").unlink()
    (job / "findings.sqlite").unlink()
    assert run("classify", "--job", job, "--embedded", tiny.root).exit_code == 3
    assert_same_rows(rows_of(job / "labels"), rows_of(wanted))
    (folder / "05.jpg").write_bytes((folder / "07.jpg").read_bytes())
    (job / "findings.sqlite").unlink()
    result = run("retry-failed", job, "--kind", "decode", "--embedded", tiny.root, "--threads", 1)
    assert (result.exit_code, rows_of(job / "labels")[5]["error"]) == (0, None), result.stderr


def test_a_job_begun_without_a_server_goes_on_with_one(run, server, tiny, folder, tmp_path):
    job = tmp_path / "job"
    assert run("classify", folder, "--embedded", tiny.root, "--head", "grid", "--job", job).exit_code == 0
    (job / "labels/000000.parquet").unlink()
    (job / "findings.sqlite").unlink()
    both = run("classify", "--job", job, "--embedded", tiny.root, "--url", server.grpc_url)
    assert (both.exit_code, both.stderr) == (2, "error: --url: with --embedded no server is asked\n")
    nobody = run("classify", "--job", job, "--url", "127.0.0.1:1", "--retry-seconds", 0)
    assert nobody.exit_code == 1 and "no server answers at 127.0.0.1:1" in nobody.stderr, nobody.stderr
    assert run("classify", "--job", job, "--url", server.grpc_url).exit_code == 0
    assert len(list((job / "labels").iterdir())) == 1


def test_what_is_no_repository_is_said(run, copy, folder, tmp_path, monkeypatch):
    result = run("classify", folder, "--embedded", folder)
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {folder} is no model repository: no folder in it holds a config.pbtxt\n",
    )
    (copy / "head_grid/config.pbtxt").write_text("input { nonsense }")
    result = run("classify", folder, "--embedded", copy)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {copy}/head_grid/config.pbtxt cannot be read: ")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("classify", folder, "--embedded", tmp_path)
    assert (result.exit_code, result.stderr) == (
        1,
        "error: models run in this process with onnxruntime, which is missing: pip install 'mlclip-client[embedded]', "
        "or [gpu] with an NVIDIA GPU\n",
    )


def test_unknown_heads_are_said_as_by_a_client(tiny):
    with Embedded(tiny.root) as models, pytest.raises(UnknownHead, match="name the heads to ask .*: color, grid"):
        models.asked_heads()
    apart = {"timeout", "retry_seconds", "security"}  # of connections
    assert Client.__init__.__kwdefaults__.keys() - apart < Embedded.__init__.__kwdefaults__.keys()


def test_models_run_on_cuda_where_the_installed_package_has_it(tiny):
    loaded = []
    package = SimpleNamespace(
        get_available_providers=lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
        preload_dlls=lambda: loaded.append("cuda"),
    )
    assert providers(package) == ["CUDAExecutionProvider", "CPUExecutionProvider"] and loaded == ["cuda"]
    repository = Repository(tiny.root)
    model = next(name for name in repository.configs if name.startswith("encoder"))
    assert repository._session(model).get_providers() == ["CPUExecutionProvider"], "this is onnxruntime without CUDA"


@pytest.mark.parametrize("installed", [True, False])
def test_model_that_asks_for_openvino_runs_there_if_it_is_installed(copy, tiny, monkeypatch, caplog, installed):
    model = next(name for name in Repository(copy).configs if name.startswith("encoder"))
    change(
        copy,
        model,
        lambda config: config.optimization.execution_accelerators.cpu_execution_accelerator.add(name="openvino"),
    )
    if not installed:
        monkeypatch.setitem(sys.modules, "openvino", None)
    repository = Repository(copy)
    assert isinstance(repository._session(model), OpenVino) is installed
    told = [record.notice for record in caplog.records if record.name == "mlclip_client"]
    hint = f"{model} asks for OpenVINO, which is missing: it runs in onnxruntime; pip install 'mlclip-client[openvino]'"
    assert told == ([] if installed else [hint])
    size = repository.configs[model].input[0].dims[0]
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    for batch in (pixels, pixels[:1]):
        pair = [given.run(model, ["embedding"], {"pixels": batch})[0] for given in (repository, Repository(tiny.root))]
        np.testing.assert_allclose(*pair, rtol=0, atol=1e-5)
