"""Readers of files from strangers: whatever is in them, they give rows or an error that they promise, and nothing else.

`MLCLIP_FUZZ=50 pytest -m slow tests/test_fuzz.py` tries 50 times as many inputs.
"""

import io
import json
import os
import tarfile
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlclip_client.bulk.known import read_known
from mlclip_client.errors import ClientError
from mlclip_client.inputs import InputOptions, Limits, Reader, Skipped, find_inputs
from mlclip_client.inputs.texts import Texts
from mlclip_client.pixels import ImageError, PixelSpec, to_pixels
from mlclip_client.report import write_report
from mlclip_serve.integrity import find_damage
from PIL import Image

from mlclip.checkpoint import EncoderRef, Run, load_run, save_run
from mlclip.data import admit, read_dataset
from mlclip.errors import MlclipError
from mlclip.heads import FeatureShapes, build_head

pytestmark = [pytest.mark.slow, pytest.mark.faults]
TIMES = int(os.environ.get("MLCLIP_FUZZ", "1"))
NESTED = (b"[" * 3000, b'{"a":' * 3000)
WORDS = (
    b'" \0 ../../x /etc/passwd 1e999 NaN \xff\xfe \r | -1 \xe2\x80\xae [0] null data:image/png;base64, \n\n ,,,'.split(
        b" "
    )
)


def damaged(seed):
    """Copies of a file with pieces cut out, overwritten, doubled, or replaced by what parsers stumble over."""
    piece = st.one_of(
        st.binary(max_size=8), st.sampled_from((*NESTED, *WORDS, b"9" * 400)), st.just(seed[: len(seed) // 3])
    )
    change = st.tuples(st.integers(0, len(seed)), st.sampled_from([0, 0, 1, 2, 8, 64, len(seed)]), piece)

    def apply(changes):
        data = seed
        for at, cut, new in changes:
            data = data[:at] + new + data[at + cut :]
        return data

    return st.lists(change, min_size=1, max_size=4).map(apply)


def fuzzed(seeds, examples):
    """Give a test the damaged copies of these files, by suffix: `suffix` and `data`."""
    files = st.sampled_from(sorted(seeds)).flatmap(lambda suffix: st.tuples(st.just(suffix), damaged(seeds[suffix])))
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=examples * TIMES, deadline=None, suppress_health_check=quiet, database=None)
    return lambda test: limits(given(file=files)(test))


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(**columns):
    buffer = io.BytesIO()
    heads = {"h": {"labels": ["a", "b"], "thresholds": [0.5, 0.5], "labels_sha256": "x", "version": "1"}}
    table = pa.table(columns).replace_schema_metadata({"mlclip_heads": json.dumps(heads)})
    pq.write_table(table, buffer)
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("a.png", png()), ("b.txt", b"words"), ("b.png", png())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


LINES = (
    b'{"path": "a.png", "labels": ["a", "b"], "split": "train", "text": "words"}\n{"path": "b.png", "labels": "a|b"}\n'
)
CSV = b'path,labels,split\na.png,a|b,train\n"b.png",a,val\nc.png,,test\n'
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
    }
).encode()
STUDIO = json.dumps(
    [{"data": {"image": "a.png"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["a"]}}]}]}]
).encode()
ROW = {
    "path": "a.png", "sha256": "00", "bytes": 3, "error_kind": None, "error": None, "seconds": 0.5,
    "answers": {
        "h": {
            "labels": ["a"], "scores": [0.9], "top_labels": ["a", "b"], "top_scores": [0.9, 0.1],
            "all_scores": [0.9, 0.1], "labels_sha256": "x", "model": "m", "version": "1",
        }
    },
}  # fmt: skip
INPUTS = {".csv": CSV, ".jsonl": LINES, ".parquet": parquet(path=["a.png", None], image=[png(), b""]), ".tar": tar(),
          ".txt": b"a.png\nhttp://127.0.0.1:1/x.png\n\nb.png\n"}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    """Write a file that is read next, beside images that it may name."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())

    def write(suffix, data):
        path = tmp_path / f"given{suffix}"
        path.write_bytes(data)
        return path

    return write


@fuzzed(INPUTS, 400)
def test_inputs_of_the_client(place, file):
    path = place(*file)
    with Reader(Limits(max_bytes=1 << 20, download_seconds=0.1)) as reader:
        try:
            items = list(find_inputs([str(path)], InputOptions(), Skipped()))
        except (ValueError, ClientError, OSError):
            return
        for item in items[:50]:
            try:
                assert len(reader.read(item)) <= 1 << 20
            except ClientError as error:
                assert "\n" not in str(error)


@fuzzed({".csv": CSV, ".jsonl": LINES, ".parquet": parquet(path=["a.png"], labels=[["a", "b"]]), ".json": COCO,
         ".studio.json": STUDIO}, 400)  # fmt: skip
def test_data_sets(place, file):
    path = place(*file)
    for read in (read_dataset, admit):
        try:
            read(path)
        except MlclipError as error:
            assert "\n" not in str(error)


@fuzzed(
    {".jsonl": json.dumps(ROW).encode() * 2, ".parquet": parquet(**{key: [value] for key, value in ROW.items()})}, 150
)
def test_rows_of_a_report(place, file):
    path = place(*file)
    page = path.with_name("page.html")
    try:
        write_report(path, page)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert "<script>alert" not in page.read_text()


@fuzzed({".csv": b"path,text\na.png,words\n", ".jsonl": b'{"path": "a.png", "text": "words"}\n'}, 150)
def test_texts(place, file):
    try:
        Texts(place(*file))
    except (ValueError, OSError):
        pass


@fuzzed({".txt": b"0" * 64 + b"  name\n# words\n" + b"a" * 64 + b"\n"}, 150)
def test_known_hashes(place, file):
    try:
        read_known(place(*file))
    except ValueError:
        pass


@fuzzed({".png": png(), ".txt": tar()}, 300)
def test_pictures(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pixels = to_pixels(file[1], PixelSpec(16, "bicubic", "longest"))
        except ImageError:
            return
    assert pixels.shape == (16, 16, 3)


@pytest.fixture
def run_folder(tmp_path, encoder):
    head = build_head("sigmoid", 2, FeatureShapes(encoder.embedding_width, 0, 0)).eval()
    save_run(tmp_path / "run", Run(head, ("a", "b"), np.float32([0.5, 0.5]), EncoderRef.of(encoder)))
    return tmp_path / "run"


def test_run_folders(run_folder):
    seeds = {path.name: path.read_bytes() for path in run_folder.iterdir()}

    @fuzzed(seeds, 400)
    def check(file):
        name, data = file
        try:
            (run_folder / name).write_bytes(data)
            load_run(run_folder)
        except MlclipError as error:
            assert "\n" not in str(error)
        finally:
            (run_folder / name).write_bytes(seeds[name])

    check()


def test_sums_of_a_repository(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.pbtxt").write_text("x")

    @fuzzed({"SHA256SUMS": b"0" * 64 + b"  config.pbtxt\n" + b"1" * 64 + b"  1/model.onnx\n"}, 200)
    def check(file):
        (model / file[0]).write_bytes(file[1])
        assert find_damage(model), "the sums are wrong, so every copy of them is"

    check()
