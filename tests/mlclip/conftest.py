"""What the library's tests share: pictures on disk, their data set, and comparisons of heads with graphs and runs."""

import os
import sys
from contextlib import contextmanager

import numpy as np
import onnxruntime
import pytest
import torch
from mlclip_client.pixels import PixelSpec
from mlclip_export.graphs import FILE, write_head
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlclip.checkpoint import EncoderRef, Run, load_run, save_run
from mlclip.cli import main
from mlclip.data import Dataset, Item, assign_splits
from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import FeatureCache


@pytest.fixture(scope="session")
def dataset(pictures):
    """The pictures with their labels, split."""
    items = tuple(Item(path, names) for path, names in zip(*pictures, strict=True))
    return assign_splits(Dataset(items, ("blue", "green", "red", "white")), (0.6, 0.2, 0.2), seed=0)


@pytest.fixture(scope="session")
def cache(encoder, tmp_path_factory):
    return FeatureCache(encoder, tmp_path_factory.mktemp("features"))


@pytest.fixture
def counted(encoder, monkeypatch):
    """The encoder, the sizes of the batches of images that it has seen, and the texts."""
    images, texts, forward, encode = [], [], Encoder.forward, Encoder.encode_text
    monkeypatch.setattr(Encoder, "forward", lambda self, pixels: images.append(len(pixels)) or forward(self, pixels))
    monkeypatch.setattr(Encoder, "encode_text", lambda self, given: texts.extend(given) or encode(self, given))
    return encoder, images, texts


@pytest.fixture
def unprivileged(tmp_path):
    """In the block, the process has no more rights than any user; `tmp_path` can be reached by all."""
    opened = []
    for folder in (tmp_path, *tmp_path.parents[:3]):  # with several test workers, one more folder
        opened.append((folder, folder.stat().st_mode))
        folder.chmod(0o755)

    @contextmanager
    def drop():
        if os.geteuid():
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    yield drop
    for folder, mode in opened:
        folder.chmod(mode)


@pytest.fixture
def mlclip(monkeypatch, capsys):
    """Run `mlclip` in this process; gives the exit code and what it said on stdout and on stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mlclip", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            main()
        return leaving.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def graph_equals(tmp_path):
    """Compare each output of a head's graph with the head's own, on inputs made for several batch sizes."""

    def check(head, inputs, atol=1e-5):
        write_head(head, inputs(2), tmp_path)
        session = onnxruntime.InferenceSession(tmp_path / FILE, providers=["CPUExecutionProvider"])
        for given in map(inputs, (1, 3, 8)):
            feeds = {name: tensor.numpy() for name, tensor in zip(head.inputs, given, strict=True)}
            with torch.no_grad():
                expected = head(*given)
            expected = (expected,) if isinstance(expected, torch.Tensor) else expected
            for one, other in zip(session.run(list(head.outputs), feeds), expected, strict=True):
                assert one.dtype == other.numpy().dtype
                np.testing.assert_allclose(one, other, rtol=0, atol=atol)
        return session

    return check


@pytest.fixture
def reloaded(tmp_path):
    """Write a head's run folder and read the head back; what the head keeps is the same."""

    def again(head):
        labels = tuple("abcdefghijkl"[: head.config["classes"]])
        encoder = EncoderRef("mlclip-lite", None, "mlclip-lite", "0", PixelSpec(32))
        save_run(tmp_path / "run", Run(head, labels, np.full(len(labels), 0.5, np.float32), encoder))
        read = load_run(tmp_path / "run").head
        assert (read.outputs, read.reference_ids, read.config) == (head.outputs, head.reference_ids, head.config)
        return read

    return again


@pytest.fixture
def largest_tensor():
    """Notes the elements of the largest tensor that any operation makes, forward or backward."""

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.elements = max(self.elements, *(tensor.untyped_storage().nbytes() // 4 for tensor in tensors), 0)
            return result

    return Largest()
