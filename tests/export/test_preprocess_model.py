"""The Python model that decodes images: runs on Python 3.10 and makes the pixels that training sees."""

import ast
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from mlclip_client import pixels
from mlclip_client.pixels import PixelSpec, to_pixels
from mlclip_export import ConfigOptions
from mlclip_export.configs import preprocess_config
from mlclip_export.served import neighbors as neighbors_model
from mlclip_export.served import preprocess as preprocess_model
from mlclip_export.served import references as references_model
from mlclip_export.served import tokenize as tokenize_model
from mlclip_export.served.preprocess import TritonPythonModel, load_pixels
from PIL import Image, ImageFile

from .conftest import Backend

SPEC = PixelSpec(24, "bilinear", "longest", 127)


def picture_of(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def picture(kind="PNG"):
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


class Request(dict):
    """A request of some files; `sent` has its answer once it is sent."""

    def __init__(self, *files, cancelled=False):
        images = np.array([[file] for file in files], dtype=np.object_)
        super().__init__({"image": Backend.Tensor("image", images)})
        self.sent, self.is_cancelled = [], lambda: cancelled

    def get_response_sender(self):
        return self

    def send(self, response, flags):
        assert flags == Backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self.sent.append(response)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess_model, "pb_utils", Backend)
    monkeypatch.setattr(preprocess_model, "__file__", str(tmp_path / "model.py"))
    (tmp_path / "pixels.py").write_bytes(Path(pixels.__file__).read_bytes())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored behind the model, which sets it
    options = ConfigOptions(max_bytes=10_000, max_pixels=1500)
    config = json_format.MessageToDict(
        preprocess_config("preprocess", SPEC, 8, options), preserving_proto_field_name=True
    )
    served = TritonPythonModel()
    served.initialize({"model_config": json.dumps(config)})
    yield served
    del sys.modules["mlclip_served_pixels"]


@pytest.mark.parametrize(
    ("source", "allowed"),
    {
        pixels.__file__: {"PIL"},
        preprocess_model.__file__: set(),
        tokenize_model.__file__: {"ftfy", "instant_clip_tokenizer"},
        neighbors_model.__file__: {"faiss"},
        references_model.__file__: set(),
    }.items(),
    ids=lambda value: Path(value).stem if isinstance(value, str) else "",
)
def test_served_sources_are_python_3_10_and_import_little(source, allowed):
    nodes = list(ast.walk(ast.parse(Path(source).read_text(), feature_version=(3, 10))))
    imported = {name.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names <= allowed | {"numpy", "triton_python_backend_utils"}


def answers(model, *requests):
    assert model.execute(requests) is None
    assert [len(request.sent) for request in requests] == [1] * len(requests)
    return [request.sent[0] for request in requests]


def test_pixels_are_those_of_training(model):
    (response,) = answers(model, Request(picture()))
    (tensor,) = response.tensors
    assert tensor.name == "pixels"
    np.testing.assert_array_equal(tensor.as_numpy(), to_pixels(picture(), SPEC)[None])


def test_bad_image_fails_alone(model):
    responses = answers(model, Request(picture()), Request(b"junk"), Request(picture("JPEG")))
    assert [response.error is None for response in responses] == [True, False, True]
    assert responses[1].error.startswith("bad image: ")


def test_each_answer_is_sent_before_the_next_image_is_decoded(model, monkeypatch):
    requests = [Request(b"%d" % number) for number in range(3)]
    before = []
    monkeypatch.setattr(
        model.pixels,
        "to_pixels",
        lambda data, spec: (before.append(sum(len(each.sent) for each in requests)), np.zeros((1, 1, 3)))[1],
    )
    answers(model, *requests)
    assert before == [0, 1, 2]


def test_cancelled_requests_are_not_decoded(model, monkeypatch):
    monkeypatch.setattr(model.pixels, "to_pixels", lambda data, spec: pytest.fail("decoded"))
    (response,) = answers(model, Request(picture(), cancelled=True))
    assert response.error == "the client has cancelled the request"


@pytest.mark.faults
def test_images_behind_slow_ones_are_given_up_after_the_time_of_the_queue(model, monkeypatch):
    """Each takes 20 s, and 30 s is the limit."""
    clock = [0.0]
    monkeypatch.setattr(preprocess_model.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        model.pixels, "to_pixels", lambda data, spec: (clock.__setitem__(0, clock[0] + 20), np.zeros((1, 1, 3)))[1]
    )
    responses = answers(model, *(Request(picture()) for _ in range(4)))
    assert [response.error for response in responses] == [None, None, *["Request timeout expired"] * 2]


@pytest.mark.faults
@pytest.mark.parametrize(
    "data", [bytes(10_001), picture_of(30, 51), picture_of(100, 100)], ids=["bytes", "pixels", "for Pillow"]
)
def test_images_over_the_limits_are_not_decoded(model, data, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    (response,) = answers(model, Request(data))
    assert response.error.startswith("bad image: the image is too large: ")


def test_settings_come_from_the_config(model):
    assert (model.spec.size, model.spec.interpolation) == (24, "bilinear")
    assert (model.spec.resize_mode, model.spec.fill) == ("longest", 127)


def test_another_module_named_pixels_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "pixels.py").write_text("PixelSpec = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = load_pixels(Path(pixels.__file__))
    parameters = {"image_size": "8", "interpolation": "bicubic", "resize_mode": "squash", "fill": "0"}
    assert module.PixelSpec.of(parameters).size == 8
    del sys.modules["mlclip_served_pixels"]
