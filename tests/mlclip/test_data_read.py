"""Reading: every format gives the same items, and every broken line is named by its number."""

import csv
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlclip_client.inputs import InputOptions, Skipped, find_inputs
from mlclip_client.inputs.manifests import check_manifest

from mlclip.data import Report, read_dataset, scan, write_manifest
from mlclip.errors import DataError


def rows(dataset):
    return [(item.path.name, item.labels, item.text, item.split, item.group) for item in dataset.items]


def broken(problems):
    return [(problem.where.rpartition(":")[2], problem.message) for problem in problems]


EXPECTED = [
    ("a.jpg", ("cat", "dog"), "two friends, at home", "train", "g1"),
    ("b.jpg", ("élan",), None, "val", None),
    ("c.jpg", (), None, None, None),
]


def write_csv(path):
    path.write_text(
        "\ufefffile,keywords,Title,split,group\n"
        'a.jpg, cat | dog |cat|,"two friends, at home",train,g1\n'
        "\n"
        "b.jpg,e\u0301lan,,validation,\n"
        "c.jpg,,,,\n",
        encoding="utf-8",
    )


def write_jsonl(path):
    caption = "two friends, at home"
    lines = [
        {"image": "a.jpg", "labels": ["cat", "dog"], "caption": caption, "split": "train", "group": "g1"},
        {"image": "b.jpg", "labels": "e\u0301lan", "split": "VAL", "more": {"is": "ignored"}},
        {"image": "c.jpg", "labels": None},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")


def write_parquet(path):
    table = {
        "path": ["a.jpg", "b.jpg", "c.jpg"],
        "labels": [["cat", "dog"], ["élan"], None],
        "text": ["two friends, at home", None, ""],
        "split": ["train", "val", None],
        "group": ["g1", None, None],
    }
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize(
    ("name", "write"), [("m.csv", write_csv), ("m.jsonl", write_jsonl), ("m.parquet", write_parquet)]
)
def test_all_formats_give_the_same_items(tmp_path, name, write):
    write(tmp_path / name)
    dataset = read_dataset(tmp_path / name)
    assert rows(dataset) == EXPECTED
    assert dataset.classes == ("cat", "dog", "élan")
    assert all(item.path.parent == tmp_path for item in dataset.items)


def test_tabs_and_another_separator(tmp_path):
    (tmp_path / "m.tsv").write_text("path\tlabels\na.jpg\tcat;dog\n")
    assert read_dataset(tmp_path / "m.tsv", separator=";").items[0].labels == ("cat", "dog")


def test_a_written_manifest_reads_back_as_it_was(tmp_path):
    write_csv(tmp_path / "m.csv")
    dataset = read_dataset(tmp_path / "m.csv")
    out = tmp_path / "elsewhere" / "deep" / "manifest.jsonl"
    write_manifest(dataset, out)
    assert json.loads(out.read_text(encoding="utf-8").splitlines()[0])["path"] == "../../a.jpg"
    again = read_dataset(out)
    assert rows(again) == rows(dataset)
    assert [item.path.resolve() for item in again.items] == [item.path for item in dataset.items]
    assert [file.name for file in out.parent.iterdir()] == ["manifest.jsonl"]


def test_a_written_manifest_finds_images_across_links(tmp_path):
    deep = tmp_path / "real" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "link").symlink_to(deep)
    (deep / "m.csv").write_text("path,labels\n../a.jpg,cat\n")
    for out in (tmp_path / "m.jsonl", tmp_path / "link" / "m.jsonl"):
        write_manifest(read_dataset(tmp_path / "link" / "m.csv"), out)
        assert read_dataset(out).items[0].path.resolve() == tmp_path / "real" / "a.jpg"


def test_every_broken_csv_line_is_named(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        "path,labels,split\n"  # 1
        "a.jpg,cat,train\n"  # 2
        ",cat,train\n"  # 3
        'b.jpg,"cat\ndog",train\n'  # 4 and 5
        "c.jpg,cat\n"  # 6
        "\n"  # 7
        "d.jpg,cat,holdout\n"  # 8
        "e.jpg,cat,dog,train\n"  # 9
        "f.jpg,cat,test\n"  # 10
        'g.jpg,"cat"s,test\n'  # 11
    )
    dataset, problems = scan(path)
    assert [item.path.name for item in dataset.items] == ["a.jpg", "f.jpg"]
    found = broken(problems)
    assert [line for line, _ in found] == ["3", "4", "6", "8", "9", "11"]
    expected = ["path is empty", "line break", "2 values for 3", "'holdout'", "4 values for 3", "broken CSV"]
    assert all(part in message for part, (_, message) in zip(expected, found, strict=True))
    assert [item.where for item in dataset.items] == [f"{path}:2", f"{path}:10"]
    with pytest.raises(DataError, match=r"m\.csv:3: the path is empty \(and 5 more"):
        read_dataset(path)


def struct_of(**fields):
    table, file = pa.table({"image": [fields], "labels": pa.array(["cat"], pa.string_view())}), io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.csv", b"\n \n\rpath,labels\ra.jpg,cat\rb.jpg,cat\r", ["a.jpg", "b.jpg"]),
        ("m.csv", b'image_path , label\n a.jpg , cat\n"b.jpg" , "cat"\nc.jpg,"a" dog\nd.jpg,cat\n', None),
        ("m.csv", b"path,labels\nfile:///x/a%20b.jpg,cat\nLOCAL:///x/c.jpg,cat\n", ["/x/a b.jpg", "/x/c.jpg"]),
        ("m.csv", b"path,labels\n a.jpg ,cat\n spaces.jpg ,cat\n", ["a.jpg", "spaces.jpg "]),
        ("m.csv", b"path,labels\nsub\\a.jpg,cat\nsub\\none.jpg,cat\n", ["sub/a.jpg", "sub\\none.jpg"]),
        ("m.csv", b"path,labels\ncaf\xe9.jpg,cat\n", [os.fsdecode(b"caf\xe9.jpg")]),
        ("m.csv", b'path,labels\n"a.jpg,cat\nb.jpg,cat\n', ["b.jpg"]),
        ("m.tsv", b'path\ttext\tlabels\na.jpg\t12" disc\tcat\nb.jpg\ta "word\tcat\n', ["a.jpg", "b.jpg"]),
        ("m.jsonl", b'\xef\xbb\xbf{"image": {"path": "a.jpg"}, "labels": []}\r\n\r\n[1]\r\n', None),
        ("m.parquet", struct_of(path="a.jpg", bytes=None), None),
        ("m.parquet", struct_of(path="a.jpg"), ["a.jpg"]),
        ("m.csv", b"\xff\xfep\x00", "UTF-16"),
    ],
)
def test_training_and_the_client_read_the_same_images(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "spaces.jpg ").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").touch()
    if isinstance(expected, str):
        for read in (scan, lambda path: check_manifest(str(path), None)):
            with pytest.raises((DataError, ValueError), match=expected):
                read(tmp_path / name)
        return
    found = list(find_inputs([str(tmp_path / name)], InputOptions(), Skipped()))
    dataset, problems = scan(tmp_path / name)
    assert [str(item.path) for item in dataset.items] == [item.path for item in found if item.error is None]
    assert [str(problem.where) for problem in problems] == [item.path for item in found if item.error is not None]
    assert expected is None or [item.path for item in dataset.items] == [tmp_path / path for path in expected]


def test_every_broken_jsonl_line_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [
        '{"path": "a.jpg", "labels": ["cat"]}',
        '{"path": "a.jpg", "labels": ["cat"',
        "",
        '["a.jpg", "cat"]',
        '{"labels": ["cat"]}',
        '{"path": "a.jpg"}',
        '{"path": "a.jpg", "labels": ["cat", 3]}',
        '{"path": "a.jpg", "labels": {"cat": 1}}',
        '{"path": 5, "labels": []}',
        '{"path": "a.jpg", "labels": ["\\ud800"]}',
        '{"path": "a\\u0000.jpg", "labels": ["cat"]}',
        '{"path": "a.jpg", "labels": ["two\\u2028lines"]}',
        '{"path": "z.jpg", "labels": ["cat"], "group": 12.0, "split": NaN}',
        '{"path": "y.jpg", "labels": ["cat"], "labels": ["dog"]}',
        '{"path": "y.jpg", "labels": ["cat"], "more": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"path": "y.jpg", "labels": ["cat"], "Path": "z.jpg"}',
    ]
    path.write_text("\n".join(lines))
    dataset, problems = scan(path)
    assert [item.group for item in dataset.items] == [None, "12"]
    found = broken(problems)
    assert [int(line) for line, _ in found] == [2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16]
    expected = ["not JSON", "not a JSON object", "no path", "no labels", "a string, not 3", "list of strings"]
    expected += ["path must be a string", "valid text", "valid text", "line break"]
    expected += ["the key 'labels' is there twice", "nested too deeply", "two columns are called 'path'"]
    assert all(part in message for part, (_, message) in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("['cat', \"dog's\"]", ("cat", "dog's")),
        ('["cat", "d\\u00f6g"]', ("cat", "dög")),
        ("('cat',)", ("cat",)),
        ("{'cat', 'dog'}", ("cat", "dog")),
        ("[]", ()),
        ("[misc]", ("[misc]",)),
        ("[misc]|(cat)", ("[misc]", "(cat)")),
        ("['cat' 'dog']", "printed list"),
        ("[cat, dog]", "printed list"),
        ("['cat', 1]", "printed list"),
    ],
)
def test_a_list_that_a_program_printed_is_read_or_refused(tmp_path, labels, expected):
    with (tmp_path / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "labels"], ["a.jpg", labels]])
    dataset, problems = scan(tmp_path / "m.csv")
    if isinstance(expected, str):
        assert expected in problems[0].message and not dataset.items
    else:
        assert dataset.items[0].labels == expected and not problems


def test_a_labels_file_in_long_form_gives_each_image_all_its_labels(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("path,label,split\na.jpg,cat,train\nb.jpg,cat,val\na.jpg,dog,train\nb.jpg,dog,test\nc.jpg,,\n")
    dataset = read_dataset(path)
    assert [(item.path.name, item.labels, item.split) for item in dataset.items] == [
        ("a.jpg", ("cat", "dog"), "train"),
        ("b.jpg", ("cat",), "val"),
        ("b.jpg", ("dog",), "test"),
        ("c.jpg", (), None),
    ]


def test_names_that_are_no_utf8_are_written_and_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "labels.csv").write_text("path,labels\na.jpg,cat\n")
    write_manifest(read_dataset(folder), tmp_path / "m.jsonl")
    assert '"path": "caf\\udce9/a.jpg"' in (tmp_path / "m.jsonl").read_text()
    assert read_dataset(tmp_path / "m.jsonl").items[0].path == folder / "a.jpg"


def test_parquet_rows_count_from_one(tmp_path):
    path = tmp_path / "m.parquet"
    names = pa.array([b"a.jpg", b"", b"c.jpg", b"caf\xe9.jpg", b"e.jpg"])
    paths = pa.Array.from_buffers(pa.string(), 5, names.buffers())
    pq.write_table(pa.table({"path": paths, "labels": ["x|y", "x", "two\nlines", "x", "y"]}), path)
    dataset, problems = scan(path)
    assert dataset.items[0].labels == ("x", "y")
    assert [item.path.name for item in dataset.items] == ["a.jpg", "e.jpg"]
    assert [line for line, _ in broken(problems)] == ["2", "3", "4"]


def two_columns():
    table, file = pa.table([["a.jpg"], ["cat"], ["dog"]], names=["path", "labels", "labels"]), io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"", "the file is empty"),
        ("m.csv", b"picture;what\na.jpg;cat\n", "m.csv:1: the first line must name the columns.*not 'picture;what'"),
        ("m.csv", b"path,labels\na.jpg,cat\nb.jpg,caf\xe9\n", "m.csv:3: not UTF-8"),
        ("m.jsonl", b'{"path": "a", "labels": ["\xff"]}\n', "m.jsonl:1: not UTF-8"),
        ("m.parquet", b"not parquet", "not a Parquet file"),
        ("m.txt", b"a.jpg cat", "a manifest ends in .csv, .tsv, .jsonl"),
        ("m.jsonl", b"\n", "there is no image in it"),
        ("m.csv", b"path,labels,Labels\na.jpg,cat,dog\n", "m.csv:? two columns are called 'labels'"),
        ("m.parquet", two_columns(), "m.parquet: two columns are called 'labels'"),
        ("m.json", b"{", "not JSON"),
        ("m.json", b"[" * 100_000, "nested too deeply"),
        ("m.json", b'{"images": [{"id": 1, "id": 2}]}', "the key 'id' is there twice"),
        ("m.json", b"[]", "there is no image in it"),
        ("m.json", b'"images"', "no list 'images'"),
        (
            "m.json",
            b'{"images": [{"id": 1}], "annotations": [], "categories": []}',
            r"\[0\] needs file_name",
        ),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_source_says_so(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read_dataset(tmp_path / "nowhere.csv")


def make_folder(folder):
    (folder / "sub").mkdir()
    for name in ("a.jpg", "sub/b.PNG", "c.jpg", "sub/._b.PNG"):
        (folder / name).write_bytes(b"any")


def test_a_folder_takes_the_labels_file_it_holds_and_names_unlisted_images(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label,split\na.jpg,cat,\nc.jpg,cat,never\n")
    dataset, problems = scan(tmp_path)
    assert [item.path for item in dataset.items] == [tmp_path / "a.jpg"]
    refused, unlisted = problems
    assert refused.where.endswith("labels.csv:3") and refused.severity == "error", "and it is not unlisted, too"
    assert (unlisted.where, unlisted.severity) == (str(tmp_path / "sub" / "b.PNG"), "warning")


def test_a_folder_and_a_labels_file_elsewhere_even_without_a_header(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    make_folder(folder)
    labels = tmp_path / "list.csv"
    labels.write_text("sub/b.PNG,cat|dog\na.jpg,dog\n")
    dataset = read_dataset(folder, labels=labels)
    assert [(item.path, item.labels) for item in dataset.items] == [
        (folder / "sub/b.PNG", ("cat", "dog")),
        (folder / "a.jpg", ("dog",)),
    ]
    assert dataset.items[0].where == f"{labels}:1"


def test_a_folder_with_no_labels_file_or_with_two_is_refused(tmp_path):
    with pytest.raises(DataError, match="name one with --labels"):
        read_dataset(tmp_path)
    for name in ("labels.csv", "manifest.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"manifest\.jsonl and labels\.csv: name the one to use"):
        read_dataset(tmp_path)


def test_a_labels_file_needs_one_folder(tmp_path):
    write_csv(tmp_path / "m.csv")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="goes with a folder"):
        read_dataset(tmp_path / "m.csv", labels=tmp_path / "m.csv")
    with pytest.raises(DataError, match="goes with one folder"):
        read_dataset(tmp_path / "photos", tmp_path, labels=tmp_path / "m.csv")


def test_images_may_lie_in_another_folder(tmp_path):
    write_csv(tmp_path / "m.csv")
    dataset = read_dataset(tmp_path / "m.csv", images=Path("/pictures"))
    assert dataset.items[0].path == Path("/pictures/a.jpg")


def test_classes_restrict_and_order_and_unknown_labels_are_named_by_line(tmp_path):
    path, classes = tmp_path / "m.csv", tmp_path / "classes.txt"
    path.write_text("path,labels\na.jpg,dog|cat\nb.jpg,cta\n\nc.jpg,whale\n")
    classes.write_text("dog\n\ncat\nwhale\n")
    with pytest.raises(DataError, match=r"m\.csv:3: unknown label 'cta': is it 'cat'\?$"):
        read_dataset(path, classes=classes)
    assert read_dataset(path, classes=["whale", "cta", "cat", "dog"]).classes == ("whale", "cta", "cat", "dog")
    with pytest.raises(DataError, match=r"m\.csv:3: unknown label .* \(and 1 more"):
        read_dataset(path, classes=["cat", "dog"])


def test_a_broken_classes_file_is_named_by_line(tmp_path):
    write_csv(tmp_path / "m.csv")
    classes = tmp_path / "classes.txt"
    classes.write_text("cat\ndog\ncat \n")
    with pytest.raises(DataError, match=r"classes\.txt:3: 'cat' is already at 1: remove one"):
        read_dataset(tmp_path / "m.csv", classes=classes)
    classes.write_text("\n")
    with pytest.raises(DataError, match="no class is named"):
        read_dataset(tmp_path / "m.csv", classes=classes)
    with pytest.raises(DataError, match="cannot be read"):
        read_dataset(tmp_path / "m.csv", classes=tmp_path / "missing.txt")


def test_sources_add_up_and_a_prefix_sets_the_split(tmp_path):
    write_csv(tmp_path / "m.csv")
    write_jsonl(tmp_path / "m.jsonl")
    dataset = read_dataset(tmp_path / "m.csv", f"test={tmp_path / 'm.jsonl'}")
    assert [item.split for item in dataset.items] == ["train", "val", None, "test", "test", "test"]
    with pytest.raises(DataError, match="named twice"):
        read_dataset(tmp_path / "m.csv", f"test={tmp_path / 'm.csv'}")


def coco(folder, year="val2017", crowd=1):
    content = {
        "images": [{"id": n, "file_name": f"{name}.jpg"} for n, name in ((9, "nine"), (4, "four"), (5, "five"))],
        "categories": [{"id": 3, "name": "zebra"}, {"id": 1, "name": "apple"}],
        "annotations": [
            {"id": 100, "image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]},
            {"id": 101, "image_id": 9, "category_id": 1, "iscrowd": crowd},
            {"id": 102, "image_id": 9.0, "category_id": 3.0},
            {"id": 103, "image_id": 5.0, "category_id": 1.0},
        ],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{year}.json"
    path.write_text(json.dumps(content))
    return path, content


def test_coco_images_get_the_names_of_their_categories(tmp_path):
    path, _ = coco(tmp_path)
    (tmp_path / "val2017").mkdir()
    dataset = read_dataset(path)
    assert dataset.classes == ("apple", "zebra")
    assert [(item.path, item.labels, item.split) for item in dataset.items] == [
        (tmp_path / "val2017/nine.jpg", ("apple", "zebra"), "val"),
        (tmp_path / "val2017/four.jpg", (), "val"),
        (tmp_path / "val2017/five.jpg", ("apple",), "val"),
    ]
    assert dataset.targets().tolist() == [[1, 1], [0, 0], [1, 0]]


def test_coco_finds_images_beside_the_file_or_where_it_is_told(tmp_path):
    path, _ = coco(tmp_path)
    assert read_dataset(path).items[0].path == path.parent / "nine.jpg"
    assert read_dataset(path, images=tmp_path / "x").items[0].path == tmp_path / "x" / "nine.jpg"


def test_coco_train_and_val_go_in_together(tmp_path):
    train, _ = coco(tmp_path, "train2017")
    val, _ = coco(tmp_path, "val2017")
    dataset = read_dataset(train, f"test={val}")
    assert dataset.split_counts == {"train": 3, "test": 3}
    assert dataset.classes == ("apple", "zebra")


def test_coco_entries_that_point_nowhere_are_named(tmp_path):
    path, content = coco(tmp_path)
    content["annotations"] += [{"id": 7, "image_id": 1, "category_id": 1}, {"id": 8, "image_id": 9, "category_id": "2"}]
    content["images"] += [{"id": 5, "file_name": "again.jpg"}, {"id": 6, "file_name": "nul\0.jpg"}]
    path.write_text(json.dumps(content))
    dataset, problems = scan(path)
    assert [str(problem) for problem in problems] == [
        f"{path}: annotation 7: error: there is no image 1",
        f"{path}: image 9: error: annotation 8: there is no category '2'",
        f"{path}: image 5: error: images[3] has the same id: give each its own",
        f"{path}: image 6: error: '{path.parent}/nul\\x00.jpg' is not valid text: remove the characters shown as \\",
    ]
    kept = Report(tuple(problems), dataset).accepted
    assert [item.path.name for item in kept.items] == ["four.jpg"], "those with a label that is lost are out"


def test_two_coco_categories_of_one_name_are_refused(tmp_path):
    path, content = coco(tmp_path)
    content["categories"].append({"id": 8, "name": "apple"})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="category 8: .* 'apple' is empty or taken"):
        read_dataset(path)


def test_an_option_that_reading_does_not_have_is_refused(tmp_path):
    with pytest.raises(TypeError, match="reading has no option top: labels, images, classes, separator"):
        read_dataset(tmp_path, top=46)
