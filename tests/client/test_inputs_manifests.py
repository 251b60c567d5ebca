"""CSV, TSV, JSON lines, Parquet and lists: columns, texts, and lines that are broken."""

import base64
import json
import os
import random
import tracemalloc
from dataclasses import replace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlclip_client.errors import TooLarge, Unreadable
from mlclip_client.inputs import Cell, InputOptions, Item, Limits, Reader, Skipped, find_inputs
from mlclip_client.inputs.parquet import BytesColumn

from .input_files import contents, items_of, paths_of, problem, written

MISSING = "read: no path"


def parquet(path, table, **options):
    pq.write_table(pa.table(table), path, **options)
    return path


def seen(items):
    return [(item.kind, item.path, item.text, problem(item)) for item in items]


def manifest(folder, kind):
    rows = [
        ("a.jpg", "a cat"),
        ("sub/ö b.png", None),
        ("/abs/c.jpg", "ünï"),
        ("https://x.org/d.jpg", None),
        ("s3://b/e.jpg", None),
    ]
    path = folder / f"m.{kind}"
    if kind == "parquet":
        return parquet(
            path, {"Path": [name for name, _ in rows], "id": range(5), "caption": [text for _, text in rows]}
        )
    if kind == "jsonl":
        return written(
            path, "".join(json.dumps({"Path": name, "id": 1, "caption": text}) + "\n" for name, text in rows)
        )
    comma = "," if kind == "csv" else "\t"
    lines = [comma.join(("\ufeffid", "Path", "caption")), *(comma.join(("1", name, text or "")) for name, text in rows)]
    return written(path, "\r\n".join(lines))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_manifests_of_every_kind_give_the_same_items(tmp_path, kind):
    assert seen(items_of(manifest(tmp_path, kind))) == [
        ("file", f"{tmp_path}/a.jpg", "a cat", ""),
        ("file", f"{tmp_path}/sub/ö b.png", None, ""),
        ("file", "/abs/c.jpg", "ünï", ""),
        ("url", "https://x.org/d.jpg", None, ""),
        ("remote", "s3://b/e.jpg", None, ""),
    ]


def test_relative_paths_start_from_the_manifest_not_from_here(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub/m.csv", "path\na.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert [item.path for item in items_of("sub/m.csv")] == ["sub/a.jpg"]


def test_broken_csv_lines_are_errors_and_the_others_go_on(tmp_path):
    path = written(
        tmp_path / "m.csv",
        b'path,text\na.jpg,x\nb.jpg\n"c.jpg"x,y\n,no path\n\n\xff\xfe.jpg,"two\nlines"\nd.jpg,\xff\n'
        + b"e" * 2**20
        + b",\nf.jpg,",
    )
    skipped = Skipped()
    items = items_of(path, skipped=skipped)
    assert seen(items) == [
        ("file", f"{tmp_path}/a.jpg", "x", ""),
        ("file", f"{path}:3", None, "read: 1 value for 2 columns: quote values that contain the delimiter"),
        ("file", f"{path}:4", None, "read: broken CSV in line 4: ',' expected after '\"'"),
        ("file", f"{path}:5", None, MISSING),
        ("file", os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.jpg"), "two\nlines", ""),
        ("file", f"{tmp_path}/d.jpg", "?", ""),
        ("file", f"{path}:10", None, "read: the line is longer than 1,048,576 bytes"),
        ("file", f"{tmp_path}/f.jpg", None, ""),
    ]
    assert skipped.skipped == {"empty lines": 1}


@pytest.mark.parametrize("names", [["c.jpg", '"d.jpg"'] * 100, ["c.jpg"] * 25_000])
def test_quote_that_never_ends_costs_its_own_line_only(tmp_path, names):
    path = written(tmp_path / "m.csv", 'path\na.jpg\n"b.jpg\n' + "".join(f"{name}\n" for name in names))
    first, broken, *others = items_of(path)
    assert first.path == f"{tmp_path}/a.jpg"
    assert (broken.path, problem(broken)[:28]) == (f"{path}:3", "read: broken CSV in line 3: ")
    assert [item.path for item in others] == [str(tmp_path / name.strip('"')) for name in names]


def test_a_line_of_tsv_is_a_row_whatever_its_quotation_marks(tmp_path):
    lines = ["path\ttext", 'a.jpg\t5" nail', 'b.jpg\t"begins', 'c.jpg\tends"', '"d.jpg"\t"say ""hi"""', "e.jpg\tx\ty"]
    items = items_of(written(tmp_path / "m.tsv", "\n".join(lines)))
    assert [(item.path, item.text) for item in items[:-1]] == [
        (f"{tmp_path}/a.jpg", '5" nail'),
        (f"{tmp_path}/b.jpg", '"begins'),
        (f"{tmp_path}/c.jpg", 'ends"'),
        (f"{tmp_path}/d.jpg", 'say "hi"'),
    ]
    assert problem(items[-1]) == "read: 3 values for 2 columns: every tab begins another value"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "\n\n", " , \n"])
@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl"])
def test_every_kind_of_line_end_and_blank_lines_before_the_header(tmp_path, kind, end, before):
    names = [f"{number:05}.jpg" for number in range(2000)]  # longer than what is read at once
    row = {"csv": "{},x\n", "txt": "{}\n", "jsonl": '{{"path": "{}"}}\n'}[kind]
    head = before + "path,text\n" if kind == "csv" else ""
    path = written(tmp_path / f"m.{kind}", (head + "".join(map(row.format, names))).replace("\n", end))
    assert [item.path for item in items_of(path)] == [f"{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize(
    ("columns", "twice"),
    [(("path", "Path "), "path"), (("path", "caption", "Caption"), "caption"), (("url", "url"), "url")],
)
def test_two_columns_of_one_name_are_refused_and_named(tmp_path, kind, columns, twice):
    path = tmp_path / f"m.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table([["a.jpg"]] * len(columns), names=list(columns)), path)
    else:
        delimiter = "," if kind == "csv" else "\t"
        written(path, delimiter.join(columns) + "\n" + delimiter.join(["a.jpg"] * len(columns)))
    with pytest.raises(ValueError, match=rf"m\.{kind}: 2 columns are called {twice}: rename all but one$"):
        items_of(path)


def test_two_columns_of_one_name_that_nobody_reads_do_no_harm(tmp_path):
    assert paths_of(written(tmp_path / "m.csv", "path,,,x,x\na.jpg,1,2,3,4\n")) == [f"{tmp_path}/a.jpg"]


def test_two_keys_of_one_name_cost_their_line_only(tmp_path):
    lines = ['{"path": "a.jpg", "path": "b.jpg"}', '{"path": "c.jpg", "PATH": "d.jpg"}', '{"path": "e.jpg"}']
    path = written(tmp_path / "m.jsonl", "\n".join(lines))
    assert [(item.path, problem(item)) for item in items_of(path)] == [
        (f"{path}:1", "read: the key 'path' is there twice"),
        (f"{path}:2", "read: 2 columns are called path: rename all but one"),
        (f"{tmp_path}/e.jpg", ""),
    ]


def test_broken_json_lines_are_errors_and_the_others_go_on(tmp_path):
    lines = [
        b'{"path": "a.jpg", "text": "half \\ud83d pair"}',
        b'{"path": "b.jpg"',
        b"[1, 2]",
        b"[" * 100_000,
        b'{"path": 7}',
        b'{"path": "\\ud800.jpg"}',
        b"",
        b'{"file": "\xff.jpg", "text": 7}',
        b'{"other": "c.jpg"}',
        b'{"path": "null\\u0000.jpg"}',
    ]
    path = written(tmp_path / "m.jsonl", b"\n".join(lines))
    skipped = Skipped()
    items = items_of(path, skipped=skipped)
    problems = [problem(item) for item in items]
    assert [item.path for item in items if not problem(item)] == [
        f"{tmp_path}/a.jpg",
        os.fsdecode(bytes(tmp_path) + b"/\xff.jpg"),
        f"{tmp_path}/null\0.jpg",
    ]
    assert items[0].text == "half ? pair"
    assert [item.path for item in items if problem(item)] == [f"{path}:{line}" for line in (2, 3, 4, 5, 6, 9)]
    assert [known.partition(":")[0] for known in problems if known] == ["read"] * 6
    assert "not a JSON object" in problems[2] and "half a surrogate pair" in problems[5]
    assert skipped.skipped == {"empty lines": 1}
    with Reader() as reader, pytest.raises(Unreadable, match="null"):
        reader.read(items[-1])


def test_column_that_is_not_obvious_must_be_named(tmp_path):
    path = written(tmp_path / "m.csv", "where,text\na.jpg,x\n")
    with pytest.raises(ValueError, match=r"m\.csv: no column of paths, .* among: where, text; name it with --column"):
        items_of(path)
    assert [item.path for item in items_of(path, column="WHERE")] == [f"{tmp_path}/a.jpg"]
    with pytest.raises(ValueError, match="no column there"):
        items_of(path, column="there")


def test_columns_of_addresses_name_no_files_of_this_machine(tmp_path):
    path = written(tmp_path / "m.csv", "url\nhttp://x.org/a.jpg\n/etc/passwd\nfile:///etc/passwd\ns3://b/a.jpg\n")
    assert [(item.kind, problem(item)) for item in items_of(path)] == [
        ("url", ""),
        ("file", "download: not an address: /etc/passwd"),
        ("file", "download: not an address: file:///etc/passwd"),
        ("remote", ""),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.csv", b"", "the file is empty"),
        ("m.csv", b'"path\n', "broken CSV"),
        ("m.parquet", b"PAR1 no parquet PAR1", "not a Parquet file"),
        ("m.parquet", b"", "not a Parquet file"),
        ("m.jsonl", b'{"id": 1}\n', "among: id"),
        ("m.csv", "path\na.jpg\n".encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
    ],
)
def test_manifest_that_cannot_be_used_is_refused_before_anything_starts(tmp_path, name, data, message):
    path = written(tmp_path / name, data)
    with pytest.raises(ValueError, match=message) as caught:
        find_inputs([str(path)], InputOptions(), Skipped())
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_manifest_that_vanishes_in_the_middle_is_one_error(tmp_path):
    path = written(tmp_path / "m.csv", "path\na.jpg\n")
    items = find_inputs([str(path)], InputOptions(), Skipped())
    os.unlink(path)
    assert [problem(item) for item in items] == [
        "read: the manifest cannot be read to its end: No such file or directory"
    ]


def images(count, size=1000):
    draw = random.Random(count)
    return [draw.randbytes(size) for _ in range(count)]


@pytest.mark.parametrize("nested", [False, True])
def test_bytes_in_parquet_come_back_row_by_row(tmp_path, nested):
    data = [*images(50), None, *images(49)]
    column = {"image": [{"bytes": cell, "path": cell and "x.jpg"} for cell in data]} if nested else {"jpg": data}
    path = parquet(tmp_path / "m.parquet", column | {"text": [str(row) for row in range(100)]}, row_group_size=30)
    items = items_of(path)
    assert [item.path for item in items] == [f"{path}:{row}" for row in range(1, 101)]
    assert [item.text for item in items] == [str(row) for row in range(100)]
    order = list(range(100))
    random.Random(0).shuffle(order)
    with Reader() as reader:
        for row in [*range(100), *order]:
            if data[row] is None:
                with pytest.raises(Unreadable, match="holds no bytes"):
                    reader.read(items[row])
            else:
                assert reader.read(items[row]) == data[row]
        with pytest.raises(Unreadable, match="no row 101"):
            reader.read(Item("x", "cell", str(path), cell=Cell(items[0].cell.column, 101)))
    with Reader(Limits(max_bytes=999)) as reader, pytest.raises(TooLarge):
        reader.read(items[0])


def test_cells_far_back_are_read_again_and_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("mlclip_client.inputs.parquet.WINDOW", 100_000)
    data = images(600, 5000)
    path = parquet(tmp_path / "m.parquet", {"jpg": data}, row_group_size=200, data_page_size=10_000)
    column = BytesColumn(str(path), "jpg")
    for row in (1, 600, 2, 300, 299, 100):
        assert column.read(row) == data[row - 1]
    assert sum(len(cell) for cell in column._kept) < 300_000
    column.close()


def test_enumeration_of_images_in_parquet_does_not_read_them(tmp_path):
    path = parquet(tmp_path / "m.parquet", {"image": images(200, 50_000), "text": ["x"] * 200})
    before = pa.total_allocated_bytes()
    for _ in find_inputs([str(path)], InputOptions(), Skipped()):
        assert pa.total_allocated_bytes() - before < 3_000_000


def test_damaged_row_group_costs_its_own_rows_only(tmp_path):
    names = [f"{number:04}-{random.Random(number).randbytes(20).hex()}.jpg" for number in range(300)]
    path = parquet(
        tmp_path / "m.parquet", {"path": names}, row_group_size=100, compression="zstd", use_dictionary=False
    )
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 500] = bytes(500)
    path.write_bytes(bytes(data))
    items = items_of(path)
    assert [item.path for item in items] == [
        *(f"{tmp_path}/{name}" for name in names[:100]),
        *(f"{path}:{row}" for row in range(101, 201)),
        *(f"{tmp_path}/{name}" for name in names[200:]),
    ]
    assert all(problem(item).startswith("read: the Parquet file is damaged: ") for item in items[100:200])


def test_a_column_of_another_type_is_named_with_its_type(tmp_path):
    path = parquet(tmp_path / "m.parquet", {"path": [1, 2], "where": [[1.0], None]})
    there = r"path \(int64\), where \(list<.*>\)"
    with pytest.raises(ValueError, match=rf"m\.parquet: no column of paths, .* among: {there}; name it with --column"):
        items_of(path)
    with pytest.raises(ValueError, match=rf"no column path with paths, addresses or bytes; columns: {there}"):
        items_of(path, column="path")


def test_a_path_in_json_that_is_no_text_is_quoted(tmp_path):
    path = written(tmp_path / "m.jsonl", '{"path": 5}\n{"url": ["a"]}\n{"path": null}\n')
    problems = [problem(item) for item in items_of(path)]
    assert problems == ["read: the path is not a text: 5", "download: the address is not a text: ['a']", MISSING]


def test_parquet_strings_may_be_no_utf8_null_or_in_a_dictionary(tmp_path):
    array = pa.array([b"\xff.jpg", b"b.jpg", None]).view(pa.string())
    path = parquet(tmp_path / "m.parquet", {"path": array})
    items = items_of(path)
    assert os.fsencode(items[0].path) == bytes(tmp_path) + b"/\xff.jpg"
    assert [problem(item) for item in items] == ["", "", MISSING]
    path = parquet(path, {"path": pa.array(["a.jpg", None, "a.jpg"]).dictionary_encode()})
    assert [problem(item) for item in items_of(path)] == ["", MISSING, ""]


def test_base64_in_json_lines(tmp_path):
    wrong = ["no base64!", "data:no comma in base64", 5]
    rows = [{"bytes": base64.b64encode(b"image").decode(), "text": "x"}, *({"bytes": each} for each in [*wrong, None])]
    path = written(tmp_path / "m.jsonl", "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows))
    good, *bad, null = items_of(path)
    assert (good.path, good.kind, good.text) == (f"{path}:1", "cell", "x")
    with Reader() as reader:
        assert reader.read(good) == b"image"
        for item, reason in zip(bad, ["base64", "no comma", "^column bytes is not a text: 5$"], strict=True):
            with pytest.raises(Unreadable, match=reason):
                reader.read(item)
        with pytest.raises(Unreadable, match="holds no bytes"):
            reader.read(null)
        written(tmp_path / "m.jsonl", json.dumps({"other": "x" * 100}))
        with pytest.raises(Unreadable):
            reader.read(replace(good, offset=0, size=200))


PADDED = base64.b64encode(b"\xfb\xffimage").decode()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bytes", PADDED),
        ("bytes", PADDED.translate(str.maketrans("+/", "-_", "="))),
        ("bytes", PADDED[:4] + "\r\n" + PADDED[4:]),
        ("image", "data:image/png;base64," + PADDED.replace("+", "%2B")),
        ("url", "data:,%FB%FFimage"),
        ("image", {"bytes": PADDED, "path": "gone.jpg"}),
        ("image", {"bytes": None, "path": "a.jpg"}),
        ("image", {"path": " a.jpg"}),
    ],
)
def test_images_in_json_lines_as_others_write_them(tmp_path, column, value):
    written(tmp_path / "a.jpg", b"\xfb\xffimage")
    path = written(tmp_path / "m.jsonl", json.dumps({column: value}))
    assert contents(items_of(path)) == [b"\xfb\xffimage"]


def test_images_in_structs_with_a_path_only(tmp_path):
    written(tmp_path / "b.jpg", b"second")
    images = [{"bytes": b"first", "path": "gone.jpg"}, {"bytes": None, "path": "b.jpg"}]
    assert contents(items_of(parquet(tmp_path / "m.parquet", {"image": images}))) == [b"first", b"second"]
    items = items_of(parquet(tmp_path / "m.parquet", {"image": [{"path": "b.jpg"}], "title": ["x"]}))
    assert [(item.path, item.text) for item in items] == [(f"{tmp_path}/b.jpg", "x")]


def test_columns_of_views_as_newer_writers_use_them(tmp_path):
    path = parquet(tmp_path / "m.parquet", {"path": pa.array(["a.jpg"], pa.string_view())})
    assert paths_of(path) == [f"{tmp_path}/a.jpg"]
    table = {"image": pa.array([b"image"], pa.binary_view()), "text": pa.array(["x"], pa.string_view())}
    (item,) = items_of(parquet(path, table))
    assert (item.text, contents([item])) == ("x", [b"image"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "txt"])
def test_spaces_around_a_path_are_dropped_unless_a_file_has_them(tmp_path, kind):
    names = [" a.jpg", "b.jpg ", "  https://x.org/c.jpg "]
    written(tmp_path / "b.jpg ", b"x")
    row = {"csv": "{},x\n", "txt": "{}\n", "jsonl": '{{"path": "{}"}}\n'}
    path = tmp_path / f"m.{kind}"
    if kind == "parquet":
        parquet(path, {"path": names})
    else:
        written(path, "path, text\n" * (kind == "csv") + "".join(map(row[kind].format, names)))
    assert paths_of(path) == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg ", "https://x.org/c.jpg"]


def test_data_addresses_elsewhere_are_an_error_that_says_where_they_are_read(tmp_path):
    (item,) = items_of(written(tmp_path / "m.csv", 'url\n"data:image/png;base64,AAAA"\n'))
    assert problem(item).startswith("download: images in data: addresses are read from JSON lines only")


def test_lists_hold_a_name_a_line(tmp_path):
    written(tmp_path / " -b.jpg ", b"x")
    data = b"a.jpg\n\n -b.jpg \r\nhttps://x.org/c.jpg\n" + b"x" * 2**20 + b"\n\xff.jpg"
    path = written(tmp_path / "m.txt", data)
    skipped = Skipped()
    items = items_of(path, skipped=skipped)
    assert [(item.kind, item.path) for item in items] == [
        ("file", f"{tmp_path}/a.jpg"),
        ("file", f"{tmp_path}/ -b.jpg "),
        ("url", "https://x.org/c.jpg"),
        ("file", f"{path}:5"),
        ("file", os.fsdecode(bytes(tmp_path) + b"/\xff.jpg")),
    ]
    assert problem(items[3]) == "read: the line is longer than 1,048,576 bytes"
    assert skipped.skipped == {"empty lines": 1}


def test_lists_with_nuls_hold_names_with_newlines(tmp_path):
    path = written(tmp_path / "m.txt", b"a\nb.jpg\0c.jpg\0" + b"x" * (2**20 + 1) + b"\0d.jpg")
    items = items_of(path, null=True)
    assert [item.path for item in items] == [
        f"{tmp_path}/a\nb.jpg",
        f"{tmp_path}/c.jpg",
        f"{path}:3",
        f"{tmp_path}/d.jpg",
    ]
    assert "longer" in problem(items[2])


def test_manifests_elsewhere_name_files_beside_them_and_none_of_this_machine():
    memory = fsspec.filesystem("memory")
    memory.pipe("/lists/m.csv", b"path\na.jpg\n/etc/passwd\nfile:///etc/passwd\nhttp://x.org/b.jpg\n")
    memory.pipe("/lists/a.jpg", b"image")
    items = items_of("memory://lists/m.csv")
    assert [(item.kind, item.path) for item in items] == [
        ("remote", "memory://lists/a.jpg"),
        ("file", "memory://lists/m.csv:3"),
        ("file", "memory://lists/m.csv:4"),
        ("url", "http://x.org/b.jpg"),
    ]
    assert all("file of this machine" in problem(item) for item in items[1:3])
    assert contents([items[0]]) == [b"image"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_memory_does_not_grow_with_the_lines(tmp_path, kind):
    peaks = []
    for count in (500, 20_000):
        lines = {"csv": "{}.jpg,a title\n", "jsonl": '{{"path": "{}.jpg"}}\n', "txt": "{}.jpg\n"}[kind]
        head = "path,text\n" if kind == "csv" else ""
        path = written(tmp_path / f"{count}.{kind}", head + "".join(lines.format(number) for number in range(count)))
        tracemalloc.start()
        assert sum(1 for _ in find_inputs([str(path)], InputOptions(), Skipped())) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000
