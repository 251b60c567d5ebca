"""From rows to a report's data: what is read, kept, packed and refused."""

import base64
import gzip
import io
import json
import re
import tarfile
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlclip_client.errors import Unreadable
from mlclip_client.output.rows import HeadClasses
from mlclip_client.report import write_report
from mlclip_client.report.answers import HeadCollector
from mlclip_client.report.columns import read_columns
from mlclip_client.report.neighbours import nearest
from mlclip_client.report.pictures import PER_PACK, Pictures, make_packs
from PIL import Image

from .input_files import add_member, answer_of, encoded

CLASSES = ("bird", "cat", "dog", "fish")
THRESHOLD = 0.5
MLD = {"labels": CLASSES, "thresholds": [THRESHOLD] * 4, "labels_sha256": "ab" * 32, "version": "4"}


def answer(scores, top_k=2, whole=True, **more):
    return answer_of(scores, MLD, top_k, whole) | more


def row(path, scores=None, error=None, **more):
    kind, message = error or (None, None)
    answers = None if scores is None else {"mld": answer(scores)}
    return {"path": path, "error_kind": kind, "error": message, "answers": answers} | more


def write(path, rows, **heads):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    else:
        table = pa.Table.from_struct_array(pa.array(rows))
        pq.write_table(table.replace_schema_metadata({"mlclip_heads": json.dumps(heads)}), path)
    return path


def picture(color="red", size=(40, 30)):
    return encoded(Image.new("RGB", size, color))


def entries(head, image):
    """The entries of one image: class, score, selected."""
    places = range(head.starts[image], head.starts[image + 1])
    return [
        (head.classes[head.class_of[place]], head.scores[place] / 65535, bool(head.selected[place])) for place in places
    ]


def blocks(page):
    """The data blocks of a page, unpacked: name -> bytes."""
    found = re.findall(r'id="block-([\w-]+)">([^<]*)</script>', page.read_text("utf-8"))
    return {name: gzip.decompress(base64.b64decode(text)) for name, text in found}


ROWS = [
    row("a.png", [0.1, 0.9, 0.7, 0.2], sha256="aa", bytes=12, seconds=0.5),
    row("b.png", error=("decode", "the file is empty"), sha256="bb", bytes=0, seconds=None),
    row("c.png", [0.4, 0.3, 0.1, 0.2], sha256="aa", bytes=12, seconds=0.25),
]


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
def test_rows_become_columns(tmp_path, name):
    columns = read_columns(write(tmp_path / name, ROWS), 100)
    assert columns.paths == ["a.png", "b.png", "c.png"]
    assert (columns.kinds, columns.messages) == ([None, "decode", None], [None, "the file is empty", None])
    assert columns.hashes == ["aa", "bb", "aa"]
    np.testing.assert_array_equal(columns.sizes, [12, 0, 12])
    np.testing.assert_array_equal(columns.seconds, [0.5, np.nan, 0.25])
    head = columns.heads["mld"]
    assert head.answered.tolist() == [True, False, True]
    assert head.sources == {("mld_bytes", "4", "ab" * 32): 2}
    assert not columns.more


def test_scores_of_all_classes_get_their_names_from_the_metadata(tmp_path):
    scores = [0.1, 0.9, 0.7, 0.2], [0.4, 0.4, 0.1, 0.2], [1, 1, 1, 1]
    rows = [row(str(number), values) for number, values in enumerate(scores)]
    head = read_columns(write(tmp_path / "x.parquet", rows, mld=MLD), 9).heads["mld"]
    assert (head.classes, head.thresholds) == (CLASSES, [THRESHOLD] * 4)
    assert (head.complete, head.floor, head.notes) == (True, 0, ())
    for image, values in enumerate(scores):
        found = entries(head, image)
        assert [name for name, _, _ in found] == [CLASSES[n] for n in np.argsort(-np.array(values), kind="stable")]
        assert [score for _, score, _ in found] == pytest.approx(sorted(values, reverse=True), abs=1e-5)
        assert [is_in for _, _, is_in in found] == [score >= THRESHOLD for score in sorted(values, reverse=True)]


@pytest.mark.parametrize(
    ("name", "heads", "notes"),
    [
        ("x.jsonl", {}, ["the file does not name the classes"]),
        ("x.parquet", {}, ["the file does not name the classes"]),
        ("x.parquet", {"mld": MLD | {"labels_sha256": "other"}}, ["not every answer"]),
        ("x.parquet", {"mld": MLD | {"version": "3"}}, None),
    ],
)
def test_scores_without_names_are_left_out_and_the_report_says_so(tmp_path, name, heads, notes):
    head = read_columns(write(tmp_path / name, [row("a", [0.1, 0.9, 0.7, 0.2])], **heads), 9).heads["mld"]
    assert head.thresholds is None
    assert head.complete is (notes is None)
    assert [label for label, _, _ in entries(head, 0)][:2] == ["cat", "dog"]
    assert len(entries(head, 0)) == (2 if notes else 4)
    assert all(note in text for note, text in zip(notes or [], head.notes, strict=True))


def test_without_all_scores_only_listed_and_selected_labels_are_known(tmp_path):
    rows = [row("a") | {"answers": {"mld": answer([0.6, 0.9, 0.7, 0.2], whole=False)}}]
    head = read_columns(write(tmp_path / "x.jsonl", rows), 9).heads["mld"]
    assert [(name, is_in) for name, _, is_in in entries(head, 0)] == [("cat", True), ("dog", True), ("bird", True)]
    assert (head.complete, head.listed) == (False, 2)


def test_only_the_highest_scores_are_kept_when_there_are_many():
    draw = np.random.default_rng(0).random((50, 40)).astype(np.float32)
    collector = HeadCollector(HeadClasses([str(number) for number in range(40)], [0.5] * 40, "x", "1"), 300)
    for first in (0, 25):
        part = [{"all_scores": scores, "labels_sha256": "x"} for scores in draw[first : first + 25].tolist()]
        collector.add(pa.array(part), first)
    head = collector.finish(50)
    assert head.complete
    assert 0 < len(head.scores) <= 600
    assert head.floor > 0.5
    above = sum(score * 65535 > head.scores.min() + 1 for score in draw.reshape(-1).tolist())
    assert above <= len(head.scores), "no score above the floor is missing"


def test_mixed_label_lists_are_named_and_their_scores_not_mixed(tmp_path):
    rows = [row("a", [0.1, 0.9, 0.7, 0.2]), row("b", [0.1, 0.9, 0.7, 0.2])]
    rows[1]["answers"]["mld"] |= {"labels_sha256": "other", "version": "5"}
    head = read_columns(write(tmp_path / "x.parquet", rows, mld=MLD), 9).heads["mld"]
    assert not head.complete
    assert any("2 different label lists" in note for note in head.notes)


@pytest.mark.parametrize("kind", ["parts", "job"])
def test_a_folder_of_parts_is_read_in_the_order_of_names(tmp_path, kind):
    folder = tmp_path
    if kind == "job":
        folder = tmp_path / "labels"
        folder.mkdir()
        (tmp_path / "job.json").write_text("{}")
        write(tmp_path / "plan.parquet", [{"path": "an input, and no row"}])
    for number in (2, 0, 1):
        write(folder / f"{number:03}.parquet", [row(f"{number}-{n}", [0.1, 0.9, 0.7, 0.2]) for n in range(2)])
    columns = read_columns(tmp_path, 5)
    assert columns.paths == ["0-0", "0-1", "1-0", "1-1", "2-0"]
    assert columns.more, "one row is beyond the limit"


def test_references_are_kept_heaviest_first(tmp_path):
    named = [{"id": "r1", "labels": ["cat"], "weight": 0.2}, {"id": "r2", "labels": [], "weight": 0.8}]
    rows = [row("a"), row("b") | {"answers": {"knn": answer([0.1, 0.9, 0.7, 0.2], references=named)}}]
    found = read_columns(write(tmp_path / "x.parquet", rows), 9).heads["knn"].references
    assert found.labels == {"r1": ("cat",), "r2": ()}
    assert (found.starts.tolist(), found.which.tolist()) == ([0, 0, 2], [1, 0])
    np.testing.assert_allclose(found.weights, [0.8, 0.2])


@pytest.mark.parametrize("type_", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2)], ids=["list", "fixed-size list"])
@pytest.mark.parametrize("none", [None, [float("nan")] * 2, [0, 0]], ids=["null", "nan", "zeros"])
def test_embeddings_are_read_and_errors_have_none(tmp_path, type_, none):
    if none is None and pa.types.is_fixed_size_list(type_):
        none = [0, 0]  # Arrow cannot read such a null back from Parquet
    table = pa.table({"path": ["a", "b", "c"], "embedding": pa.array([[1, 0], none, [0.6, 0.8]], type_)})
    pq.write_table(table, tmp_path / "x.parquet")
    found = read_columns(tmp_path / "x.parquet", 9).embeddings
    np.testing.assert_array_equal(found[[0, 2]], np.float32([[1, 0], [0.6, 0.8]]))
    assert nearest(found)[0][:, 0].tolist() == [2, -1, 0]


def test_embeddings_of_different_lengths_are_left_out(tmp_path):
    rows = [{"path": "a", "embedding": [1.0, 0.0]}, {"path": "b", "embedding": [1.0, 0.0, 0.0]}]
    columns = read_columns(write(tmp_path / "x.jsonl", rows), 9)
    assert (columns.embeddings, columns.embeddings_skipped) == (None, True)


def test_neighbours_equal_a_plain_loop():
    draw = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    draw[7], draw[9] = np.nan, 0
    index, cosine = nearest(draw, 5)
    assert (index[7] == -1).all() and (index[9] == -1).all()
    for one in (0, 8, 255, 256, 299):
        similar = {}
        for other in range(300):
            if other not in (one, 7, 9):
                a, b = draw[one].astype(np.float64), draw[other].astype(np.float64)
                similar[other] = float(a @ b / np.sqrt((a @ a) * (b @ b)))
        best = sorted(similar, key=lambda other: -similar[other])[:5]
        assert index[one].tolist() == best
        np.testing.assert_allclose(cosine[one], [similar[other] for other in best], atol=1e-6)


def test_few_rows_have_fewer_neighbours():
    none = [-1] * 3
    assert nearest(np.eye(3, dtype=np.float32), 5)[0].tolist() == [[1, 2, *none], [0, 2, *none], [0, 1, *none]]
    assert nearest(np.ones((1, 2), np.float32), 5)[0].tolist() == [[-1] * 5]


def test_thumbnails_come_in_packs_and_broken_images_have_none(tmp_path):
    (tmp_path / "wide.png").write_bytes(picture(size=(640, 320)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ["wide.png", "broken.png", None, "gone.png"] + ["wide.png"] * PER_PACK
    done = []
    packs = list(make_packs(names, Pictures(tmp_path), lambda *counts: done.append(counts)))
    assert [len(pack) for pack in packs] == [PER_PACK, 4]
    assert packs[0][1:4] == [None] * 3
    assert Image.open(io.BytesIO(base64.b64decode(packs[0][0]))).size == (160, 80)
    assert done == [(PER_PACK, PER_PACK + 4), (PER_PACK + 4, PER_PACK + 4)]


def test_names_that_are_no_utf8_are_found_again(tmp_path):
    (tmp_path / b"caf\xe9.png".decode("utf-8", "surrogateescape")).write_bytes(picture())
    assert Pictures(tmp_path)("caf\\xe9.png") == picture()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_members_of_archives_have_pictures(tmp_path, suffix):
    names = ["a.png", "deep/b c.png", "../climbs.png"]
    with tarfile.open(tmp_path / f"x{suffix}", "w:gz" if suffix.endswith("gz") else "w") as tar:
        for number, name in enumerate(names):
            add_member(tar, name, picture() + bytes(number))
    (tmp_path / "plain.png").write_bytes(picture())
    with closing(Pictures(tmp_path)) as read:
        assert [read(f"x{suffix}/{name}") for name in names] == [picture() + bytes(number) for number in range(3)]
        assert read("plain.png") == picture()
        for gone in (f"x{suffix}/none.png", f"y{suffix}/a.png"):
            with pytest.raises(Unreadable):
                read(gone)


def test_images_in_manifests_have_pictures(tmp_path):
    images = [picture() + bytes(number) for number in range(3)]
    pq.write_table(pa.table({"id": [1, 2, 3], "image": images}), tmp_path / "x.parquet", row_group_size=2)
    pq.write_table(pa.table({"id": images}), tmp_path / "odd.parquet")
    lines = ({"bytes": base64.b64encode(data).decode()} for data in images)
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with closing(Pictures(tmp_path)) as read:
        for name in ("x.parquet", "x.jsonl"):
            assert [read(f"{name}:{row}") for row in (1, 2, 3)] == images
        for gone in ("x.parquet:4", "odd.parquet:1", "gone.parquet:1", "x.parquet:"):
            with pytest.raises(Unreadable):
                read(gone)


def test_bytes_can_come_from_elsewhere(tmp_path):
    def read(path):
        if path == "https://example.org/a.png":
            return picture()
        raise RuntimeError("no such thing")

    rows = [row("https://example.org/a.png", [0.1, 0.9, 0.7, 0.2]), row("s3://b", [0.1, 0.9, 0.7, 0.2])]
    written = write_report(write(tmp_path / "x.jsonl", rows), tmp_path / "r.html", read=read)
    assert (written.rows, written.without_picture) == (2, {"unread": 1})
    assert json.loads(blocks(tmp_path / "r.html")["meta"])["originals"] is None


def test_pictures_beyond_the_page_lie_in_a_folder_and_older_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr("mlclip_client.report.assemble.INLINE", 100)
    read = picture
    for count in (260, 240):
        source = write(tmp_path / "x.jsonl", [row(f"{n}", [0.1, 0.9, 0.7, 0.2]) for n in range(count)])
        written = write_report(source, tmp_path / "r.html", read=lambda path: read())
        packs = sorted(path.name for path in written.folder.iterdir())
        name = json.loads(blocks(tmp_path / "r.html")["meta"])["id"]
        assert packs == [f"{name}-{number:05}.js" for number in range(2, -(-count // PER_PACK))]
        assert len(re.findall(r'id="pack-\d+"', (tmp_path / "r.html").read_text())) == 2
    (written.folder / "mine.txt").write_text("stays")
    written = write_report(write(tmp_path / "x.jsonl", [row("a")]), tmp_path / "r.html", read=lambda path: read())
    assert written.folder is None
    assert [path.name for path in (tmp_path / "r_files").iterdir()] == ["mine.txt"]


def test_the_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    page = tmp_path / "r.html"
    page.write_text("older")
    source = write(tmp_path / "x.jsonl", ROWS)
    monkeypatch.setattr("mlclip_client.report.assemble.render", lambda *parts: "begins well, ends badly: \ud800")
    with pytest.raises(UnicodeEncodeError):
        write_report(source, page)
    assert page.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "x.jsonl"]


def test_same_rows_make_the_same_page(tmp_path):
    source = write(tmp_path / "x.jsonl", ROWS)
    pages = []
    for _ in range(2):
        write_report(source, tmp_path / "r.html")
        pages.append((tmp_path / "r.html").read_bytes())
    assert pages[0] == pages[1]


def test_nothing_from_rows_stands_in_the_page_as_markup(tmp_path):
    hostile = "</script><script>alert(1)</script>\u2028{{data}}"
    rows = [row(hostile, error=(hostile, hostile))]
    source = write(tmp_path / "<b>{{script}}&.jsonl", rows)
    write_report(source, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "alert(1)" not in text
    assert "<b>" not in text
    assert "<title>&lt;b&gt;{{script}}&amp;.jsonl" in text
    assert json.loads(blocks(tmp_path / "r.html")["paths"]) == [hostile]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), "no address outside"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.parquet", None, "no such file or folder"),
        ("x.csv", b"path\n", "a report needs a .parquet or .jsonl file"),
        ("x.parquet", b"nothing", "not a readable Parquet file"),
        ("x.jsonl", b"", "there is no row in it"),
        ("x.jsonl", b"{\n", "x.jsonl:1: not JSON"),
        ("x.jsonl", b"\xef\xbb\xbf[]\n", "x.jsonl:1: not a JSON object"),
        ("x.jsonl", b"[" * 100_000 + b"\n", "x.jsonl:1: not JSON: it is nested too deeply"),
        ("x.jsonl", b"\xff\n", "x.jsonl:1: not JSON"),
        ("x.jsonl", b'{"path": 1}\n{"path": "a"}\n', "lines 1 to 2: not the client's rows"),
        ("x.jsonl", b'{"path": "\\ud800"}\n', "not the client's rows"),
        ("x.jsonl", b'{"bytes": ' + b"9" * 400 + b"}\n", "not the client's rows"),
        ("x.jsonl", b'{"answers": {"h": {"labels": ["a"]}}}\n', "head h: a row does not have one score per label"),
        ("x.jsonl", b'{"bytes": []}\n', "column bytes: not the client's"),
    ],
)
def test_bad_input_is_one_clear_line_and_code_2(run, tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run("report", tmp_path / name, "--out", tmp_path / "r.html")
    assert done.exit_code == 2
    assert reason in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("out", "images", "reason"),
    [
        ("r.txt", ".", "r.txt: write to a .html or .htm file"),
        ("no/such/r.html", ".", "there is no folder"),
        ("folder.html", ".", "folder.html: this is a folder"),
        ("r.html", "gone", "gone: no such folder\n"),
    ],
)
def test_impossible_pages_and_folders_are_wrong_usage(run, tmp_path, out, images, reason):
    (tmp_path / "folder.html").mkdir()
    source = write(tmp_path / "x.jsonl", ROWS)
    done = run("report", source, "--out", tmp_path / out, "--images", tmp_path / images)
    assert (done.exit_code, reason in done.stderr, (tmp_path / out).is_file()) == (2, True, False)


def test_command_says_why_images_have_no_picture(run, tmp_path):
    for name in ("a.png", "https:/x.org/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture())
    bad, late = ("decode", "no image"), ("deadline", "no answer in time")
    rows = [row("a.png"), row("a.png", error=bad), row("broken.png", error=bad), row("gone.png"), row(None)]
    rows += [row("https://x.org/a.png"), row("s3://b/a.png", error=bad), row("late.png", error=late)]
    done = run("report", write(tmp_path / "x.jsonl", rows), "--out", tmp_path / "r.html", "--images", tmp_path)
    assert done.stderr.splitlines()[1:] == [
        "1 without a picture, because they could not be read when they were classified, either",
        "2 without a picture, because they could not be read; if paths start elsewhere, name the folder with --images",
        "1 without a picture, because they came from memory",
        "2 without a picture, because they are at addresses and a report fetches nothing; the page links web addresses",
    ]


def test_command_says_what_it_wrote_and_what_is_missing(run, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    source = write(tmp_path / "x.jsonl", ROWS)
    done = run("report", source, "--out", tmp_path / "r.html", "--images", tmp_path, "--limit", 2)
    assert done.exit_code == 0
    assert "2 images, 1 with an error; written to" in done.stderr
    assert "has more rows" in done.stderr
    assert "1 without a picture" in done.stderr
    assert json.loads(blocks(tmp_path / "r.html")["meta"])["originals"] == "."
