"""Files that tests write and read: images, archives, tables of rows, and the items found in files."""

import io
import tarfile

import numpy as np
import pyarrow.parquet as pq
from mlclip_client.inputs import InputOptions, Reader, Skipped, find_inputs
from mlclip_client.options import RowOptions
from mlclip_client.output.rows import plain, success
from mlclip_client.values import Answer, Prediction


def encoded(image, kind="PNG", **options):
    """Encode a picture: the bytes of its file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def add_member(tar, name, data=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def rows_of(file):
    return pq.read_table(file).to_pylist()


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def items_of(*names, skipped=None, **options):
    return list(find_inputs(map(str, names), InputOptions(**options), skipped or Skipped()))


def paths_of(*names, skipped=None):
    return [item.path for item in items_of(*names, skipped=skipped)]


def answer_of(scores, head, top_k, whole=True):
    """What a row says of a head that gives these scores; the head is as in a file's metadata."""
    values = np.asarray(scores, np.float32)
    chosen = values >= np.float32(head["thresholds"])
    said = Answer("mld", head["labels"], values, chosen, head["labels_sha256"], "mld_bytes", head["version"])
    row = success(Prediction(None, {"mld": said}), RowOptions(top_k, scores=whole))
    return plain(row["answers"]["mld"])


def contents(items):
    with Reader() as reader:
        return [reader.read(item) for item in items]


def problem(item):
    """What is known to be wrong with an item, with its kind; empty if nothing is."""
    return f"{item.error.kind}: {item.error}" if item.error else ""
