"""What cannot be served rightly is refused with one clear line, and nothing is written."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from mlclip_export import ExportOptions, build, export_runs, graphs, parity, tensorrt
from mlclip_export.facts import read_facts

from mlclip.errors import CheckpointError, ExportError
from mlclip.heads import Head


def refused(match, runs, repository, options=None, error=ExportError, **given):
    before = sorted(repository.rglob("*")) if repository.exists() else None
    with pytest.raises(error, match=match) as caught:
        export_runs(runs, repository, options or ExportOptions(), **given)
    assert "\n" not in str(caught.value)
    assert (sorted(repository.rglob("*")) if repository.exists() else None) == before


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def test_head_that_differs_from_torch(encoder, make_run, repository, monkeypatch):
    """The graph is written of a head whose bias is a little off."""

    def write_changed(head, features, folder):
        with torch.no_grad():
            head.linear.bias += 2e-4
        graphs.write_head(head, features, folder)

    monkeypatch.setattr(build, "write_head", write_changed)
    runs = {"one": make_run(encoder)}
    refused(r"head_one: output 'logits' .* differs from torch by 0\.0002", runs, repository, encoders=[encoder])


def write_a_little_off(encoder, folder):
    with torch.no_grad():
        encoder.visual.proj[0] += 0.1
    graphs.write_encoder(encoder, folder)


def test_encoder_that_differs_from_torch(make_encoder, make_run, repository, monkeypatch):
    """The graph is written of an encoder whose projection is a little off."""
    encoder = make_encoder("changing")
    run = make_run(encoder)

    monkeypatch.setattr(build, "write_encoder", write_a_little_off)
    refused("encoder_changing: output 'embedding'", {"one": run}, repository, encoders=[encoder])


def test_tolerance_lets_through_what_it_says(make_encoder, make_run, repository, monkeypatch):
    encoder = make_encoder("changing")
    run = make_run(encoder)

    monkeypatch.setattr(build, "write_encoder", write_a_little_off)
    report = export_runs({"one": run}, repository, ExportOptions(tolerance=1.0), encoders=[encoder])
    worst = {d.output: d.value for d in report.differences if d.model == "encoder_changing"}
    assert worst["embedding"] > 1e-4


def test_label_with_a_newline(encoder, make_run, repository):
    run = make_run(encoder, classes=2, labels=("a", "b\nc"))
    refused("holds a newline", {"one": run}, repository, error=CheckpointError, encoders=[encoder])


@pytest.mark.parametrize("name", ["", "a b", "ä", "../a", "preprocess", "head_x", "heads_x", "encoder_x", "x_bytes"])
def test_names_that_are_not_free(name, encoder, make_run, repository):
    refused("cannot name a head", {name: make_run(encoder)}, repository, encoders=[encoder])


def test_head_of_another_width(encoder, make_encoder, make_run, repository):
    wider = make_encoder("nano", embed_dim=24)
    run = make_run(wider)
    wrong = type(run)(run.head, run.labels, run.thresholds, make_run(encoder).encoder)
    refused("head_one does not fit the encoder", {"one": wrong}, repository, encoders=[encoder])


def test_thresholds_of_another_length(encoder, make_run, repository):
    run = make_run(encoder)
    short = type(run)(run.head, run.labels, run.thresholds[:3], run.encoder)
    refused("3 thresholds for 7 labels", {"one": short}, repository, encoders=[encoder])


def test_two_heads_of_one_tag_on_other_weights(encoder, make_encoder, make_run, repository):
    other = make_encoder("nano", seed=1)
    runs = {"one": make_run(encoder), "two": make_run(other)}
    refused("trained on other weights of nano", runs, repository, encoders=[encoder, other])


def test_heads_that_use_other_text_towers_than_the_encoder_has(encoder, make_run, repository):
    """The image tower is the same: only what the runs note of the text tower tells them apart."""
    plain = make_run(encoder)
    one, two = (replace(plain, encoder=replace(plain.encoder, text_fingerprint=digit * 16)) for digit in "12")
    refused("trained on other weights of nano", {"one": one, "two": two}, repository, encoders=[encoder])
    runs = {"plain": plain, "worded": one}
    refused("nano' has another text tower than", runs, repository, error=CheckpointError, encoders=[encoder])


def test_new_encoder_under_a_head_that_stays(encoder, make_encoder, make_run, repository):
    export_runs({"one": make_run(encoder)}, repository, encoders=[encoder])
    other = make_encoder("nano", seed=1)
    refused("encoder_nano has other weights, and one read", {"two": make_run(other)}, repository, encoders=[other])


@pytest.mark.parametrize("broken", ["one", "head_one", "encoder_nano", "threshold_one"])
@pytest.mark.parametrize("damage", ["unparsable", "tagless"])
def test_what_cannot_be_read_is_named_and_stays_and_the_rest_goes_on(
    broken, damage, encoder, make_encoder, make_run, repository, caplog
):
    export_runs({"one": make_run(encoder)}, repository, encoders=[encoder])
    config = repository / broken / "config.pbtxt"
    text = config.read_text()
    config.write_text(text + "oops {" if damage == "unparsable" else text.replace('key: "encoder"', 'key: "coder"'))
    kept = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    other = make_encoder("other", seed=1)
    report = export_runs({"two": make_run(other)}, repository, encoders=[other])
    assert not report.removed and set(read_facts(repository).heads) >= {"two"}
    assert all(path.read_bytes() == content for path, content in kept.items())
    readable = "one" in read_facts(repository).heads and "nano" in read_facts(repository).encoders
    assert readable == (not any(str(config) in message for message in caplog.messages))


def test_a_head_whose_encoder_cannot_be_read_keeps_its_encoder(encoder, make_encoder, make_run, repository):
    export_runs({"one": make_run(encoder)}, repository, encoders=[encoder])
    (repository / "encoder_nano" / "config.pbtxt").write_text("oops {")
    refused("encoder_nano cannot be read, and one read", {"two": make_run(encoder)}, repository, encoders=[encoder])


def test_full_disk_below_the_temporary_folder_is_one_line(encoder, make_run, repository, full_disk):
    runs = {"one": make_run(encoder, classes=2000)}
    with ExitStack() as stack:
        fill = {"threshold_one": lambda: stack.enter_context(full_disk(2000))}
        refused(
            "temporary folder, which TMPDIR names: File too large$", runs, repository,
            encoders=[encoder], on_step=lambda step: fill.get(step, lambda: None)(),
        )  # fmt: skip


def test_fixed_batch_is_noticed(tmp_path):
    class Fixed(Head):
        inputs = ("embedding",)

        def forward(self, embedding):
            return embedding.reshape(2, -1)

    with pytest.raises(ExportError, match="torch cannot export the head Fixed"):
        graphs.write_head(Fixed(), [torch.zeros(2, 4)], tmp_path)


def test_plans_without_tensorrt_and_gpu(encoder, make_run, repository, monkeypatch):
    monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(tensorrt, "has_gpu", lambda: False)
    refused(
        r"needs TensorRT \(`pip install mlclip\[tensorrt\]`\) and an NVIDIA GPU with its driver",
        {"one": make_run(encoder)},
        repository,
        ExportOptions(format="tensorrt"),
        encoders=[encoder],
    )


@pytest.mark.parametrize("output", [np.nan, np.inf])
def test_infinite_output_is_no_small_difference(output):
    pairs = [({"o": np.array([output], dtype=np.float32)}, {"o": np.zeros(1, dtype=np.float32)})]
    (difference,) = parity.differences_of("m", pairs)
    assert difference.value == float("inf")
    with pytest.raises(ExportError, match="differs from torch by inf"):
        parity.refuse_if_apart([difference], 1.0)
