"""Images in tar archives: order, texts, hostile members, damage, compression."""

import gzip
import io
import os
import random
import tarfile
import tracemalloc

import pyarrow as pa
import pytest
from mlclip_client.errors import TooLarge, Unreadable
from mlclip_client.inputs import InputOptions, Limits, Reader, Skipped, find_inputs
from mlclip_client.inputs.open_files import OpenFiles
from mlclip_client.inputs.streams import Forward

from .input_files import add_member, contents, items_of, paths_of, problem, written

MEMBERS = [
    ("0001.jpg", b"first"),
    ("0001.txt", b"a cat\n"),
    ("0002.json", b'{"caption": "a dog", "id": 2}'),
    ("0002.png", b"second"),
    ("0002.cls", b"7"),
    ("sub/0003.webp", b"third" * 300),
]


def tar_of(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in members:
            add_member(tar, name, data)
    return buffer.getvalue()


def packed(data, suffix):
    if suffix == ".tar.zst":
        return pa.Codec("zstd").compress(data, asbytes=True)
    return data


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        (".tar", "w"),
        (".tar.gz", "w:gz"),
        (".tgz", "w:gz"),
        (".tar.bz2", "w:bz2"),
        (".tar.xz", "w:xz"),
        (".tar.zst", "w"),
    ],
)
def test_archives_of_every_kind_give_the_same_items_and_bytes(tmp_path, suffix, mode):
    archive = written(tmp_path / f"shard{suffix}", packed(tar_of(MEMBERS, mode), suffix))
    skipped = Skipped()
    items = items_of(archive, skipped=skipped)
    assert [(item.path, item.member, item.text, problem(item)) for item in items] == [
        (f"{archive}/0001.jpg", "0001.jpg", "a cat", ""),
        (f"{archive}/0002.png", "0002.png", "a dog", ""),
        (f"{archive}/sub/0003.webp", "sub/0003.webp", None, ""),
    ]
    assert skipped.left_alone == 1
    with Reader() as reader:
        assert [reader.read(item) for item in items] == [b"first", b"second", b"third" * 300]
        assert reader.read(items[0]) == b"first"


def test_compression_is_told_by_the_first_bytes_not_by_the_name(tmp_path):
    archive = written(tmp_path / "misnamed.tar", tar_of(MEMBERS, "w:gz"))
    assert contents([items_of(archive)[1]]) == [b"second"]


def test_members_that_climb_out_are_labels_and_nothing_else(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "evil.png").write_bytes(b"outside")
    names = ("../evil.png", "/etc/evil.png", "a/../../evil.png", "two\nlines.png", "-rf.png", " .png", "-rf.png")
    archive = written(tmp_path / "in" / "a.tar", tar_of([(name, b"%d" % n) for n, name in enumerate(names)]))
    before = sorted(tmp_path.rglob("*"))
    items = items_of(archive)
    assert [item.path for item in items] == [f"{archive}/{name}" for name in names]
    assert contents(items) == [b"%d" % n for n in range(7)], "of two members with one name, both are inputs"
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_no_utf8_survive(tmp_path):
    archive = written(tmp_path / "a.tar", tar_of([(os.fsdecode(b"\xff\xfe.png"), b"data")]))
    (item,) = items_of(archive)
    assert os.fsencode(item.member) == b"\xff\xfe.png"
    assert contents([item]) == [b"data"]


def test_links_devices_and_sparse_members_are_errors_and_folders_are_skipped(tmp_path):
    path = tmp_path / "a.tar"
    (tmp_path / "secret.png").write_bytes(b"secret")
    with tarfile.open(path, "w") as tar:
        add_member(tar, "folder.png", type=tarfile.DIRTYPE)
        add_member(tar, "soft.png", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.png"))
        add_member(tar, "hard.png", type=tarfile.LNKTYPE, linkname="soft.png")
        add_member(tar, "null.png", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        add_member(tar, "pipe.png", type=tarfile.FIFOTYPE)
        add_member(tar, "sparse.png", b"0\n", pax_headers={"GNU.sparse.map": "0,2", "GNU.sparse.size": "2"})
        add_member(tar, "whole.png", b"data")
    skipped = Skipped()
    items = {item.member: item for item in items_of(path, skipped=skipped)}
    assert {name: problem(item) for name, item in items.items()} == {
        "soft.png": "read: a link inside an archive is not followed",
        "hard.png": "read: a link inside an archive is not followed",
        "null.png": "read: not a regular file",
        "pipe.png": "read: not a regular file",
        "sparse.png": "read: a sparse file inside an archive is not read",
        "whole.png": "",
    }
    assert skipped.skipped == {"folders in archives": 1}
    with Reader() as reader, pytest.raises(Unreadable, match="^a link inside an archive is not followed$"):
        reader.read(items["soft.png"])


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst"])
def test_truncated_archive_gives_its_whole_members_and_one_error(tmp_path, suffix):
    draw = random.Random(0)
    members = [(f"{number}.jpg", draw.randbytes(100_000)) for number in range(20)]
    data = tar_of(members, "w:gz" if suffix == ".tar.gz" else "w")
    data = packed(data, suffix)
    archive = written(tmp_path / f"cut{suffix}", data[: len(data) * 6 // 10])
    *whole, last = items_of(archive)
    assert 10 <= len(whole) <= 12
    assert [item.member for item in whole] == [f"{number}.jpg" for number in range(len(whole))]
    assert (last.path, last.kind) == (archive, "file")
    assert problem(last).startswith("read: the archive is damaged: ")
    assert contents(whole) == [data for _, data in members[: len(whole)]]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
@pytest.mark.parametrize("zeros", [0, 2**18 + 512])
def test_archives_joined_by_cat_are_read_to_their_end(tmp_path, suffix, zeros):
    mode = {".tar": "w", ".tar.zst": "w"}.get(suffix, f"w:{suffix[5:]}")
    parts = [tar_of([(f"{number}.jpg", b"%d" % number)], mode) for number in range(3)]
    data = bytes(zeros if suffix == ".tar" else 0).join(parts)
    if suffix == ".tar.zst":
        data = b"".join(packed(part, suffix) for part in parts)
    items = items_of(written(tmp_path / f"a{suffix}", data))
    assert [problem(item) for item in items] == [""] * 3
    assert contents(items) == [b"0", b"1", b"2"]


def test_archive_that_ends_between_members_or_in_garbage_says_so(tmp_path):
    whole = tar_of([("a.jpg", b"first"), ("b.jpg", b"second")])
    first, last = items_of(written(tmp_path / "a.tar", whole[:1024]))
    assert contents([first]) == [b"first"]
    assert problem(last) == "read: the archive is damaged: it ends without the mark of its end: members may be missing"
    *items, last = items_of(written(tmp_path / "a.tar", whole + b"garbage" * 100))
    assert contents(items) == [b"first", b"second"]
    assert problem(last) == "read: the archive is damaged: no header at byte 10,240, behind the end of an archive"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_hard_links_are_the_members_that_they_name(tmp_path, mode):
    with tarfile.open(path := tmp_path / "a.tar", mode) as tar:
        add_member(tar, "a.jpg", b"first")
        add_member(tar, "again.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")
        add_member(tar, "b.jpg", b"second")
        add_member(tar, "b2.jpg", type=tarfile.LNKTYPE, linkname="b.jpg")
        add_member(tar, "gone.jpg", type=tarfile.LNKTYPE, linkname="nowhere.jpg")
    *items, gone = items_of(path)
    assert [item.path for item in items] == [f"{path}/{name}.jpg" for name in ("a", "again", "b", "b2")]
    assert contents(items) == [b"first", b"first", b"second", b"second"]
    assert problem(gone) == "read: a link inside an archive is not followed"


def test_files_that_macos_writes_beside_others_are_left_alone_and_part_no_sample(tmp_path):
    names = ("._0.jpg", "0.jpg", "._0.txt", "0.txt", "__MACOSX/sub/._1.jpg")
    skipped = Skipped()
    (item,) = items_of(written(tmp_path / "a.tar", tar_of([(name, b"a cat") for name in names])), skipped=skipped)
    assert (item.member, item.text, skipped.left_alone) == ("0.jpg", "a cat", 3)
    for name in ("._a.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert paths_of(tmp_path, skipped=skipped) == [f"{tmp_path}/a.jpg"]
    assert skipped.left_alone == 5


def test_member_that_lacks_its_last_byte_is_not_whole(tmp_path):
    data = tar_of([("a.jpg", bytes(512)), ("b.jpg", b"x" * 512)])
    archive = written(tmp_path / "a.tar", data[: 3 * 512 + 511])
    assert [problem(item) for item in items_of(archive)] == [
        "",
        "read: the archive is damaged: it ends in the middle of b.jpg",
    ]


def test_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    data = bytearray(tar_of([("a.jpg", bytes(10)), ("b.jpg", bytes(10)), ("c.jpg", bytes(10))]))
    data[1024 + 20] ^= 0xFF
    items = items_of(written(tmp_path / "a.tar", bytes(data)))
    assert [item.member for item in items] == ["a.jpg", ""]
    assert problem(items[1]) == "read: the archive is damaged: no header at byte 1,024"


def header(name, size_field, kind=b"0"):
    block = bytearray(tarfile.TarInfo(name).tobuf())[:512]
    block[124:136], block[156:157], block[148:156] = size_field, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "block",
    [
        header("a.jpg", b"\xff" * 12),  # a size of -1
        header("a.jpg", b"\xff" * 11 + b"\x00", b"x"),  # an extended header of -256 bytes
        header("a.jpg", b"77777777777\0", b"x"),  # one of 8 GiB
        header("a.jpg", b"77777777777\0", b"L"),
        header("a.jpg", b"77777777777\0"),
        header("a.jpg", b"00000000000\0", b"L") * 3000,  # a long name for a long name for a ...
        b"no archive at all",
        b"",
    ],
    ids=["negative", "negative-pax", "huge-pax", "huge-name", "huge", "endless-names", "garbage", "empty"],
)
def test_hostile_archives_are_one_error_and_take_no_memory(tmp_path, block):
    archive = written(tmp_path / "a.tar", block + bytes(1024) if len(block) > 100 else block)
    tracemalloc.start()
    (item,) = items_of(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem(item).startswith("read: the archive is damaged: ")
    assert peak < 16 * 2**20


def test_archive_that_cannot_be_opened_is_one_error(tmp_path, monkeypatch):
    archive = written(tmp_path / "a.tar", tar_of(MEMBERS))
    items = find_inputs([archive], InputOptions(), Skipped())
    os.unlink(archive)
    assert [problem(item) for item in items] == ["read: No such file or directory"]


def test_members_over_the_limit_are_refused_without_reading(tmp_path):
    archive = written(tmp_path / "a.tar", tar_of([("a.jpg", bytes(101))]))
    with Reader(Limits(max_bytes=100)) as reader, pytest.raises(TooLarge, match="101 bytes are over the limit of 100"):
        reader.read(items_of(archive)[0])


def test_archive_that_shrank_since_is_an_error_of_its_members(tmp_path):
    archive = written(tmp_path / "a.tar", tar_of(MEMBERS))
    *_, last = items_of(archive)
    os.truncate(archive, last.offset + 3)
    with Reader() as reader, pytest.raises(Unreadable, match="ends before"):
        reader.read(last)


def test_sample_with_endless_members_comes_out_in_parts(tmp_path):
    archive = written(tmp_path / "a.tar", tar_of([(f"same.{number}.jpg", b"x") for number in range(300)]))
    assert [item.member for item in items_of(archive)] == [f"same.{number}.jpg" for number in range(300)]


def test_text_files_without_an_image_are_left_alone_and_counted(tmp_path):
    skipped = Skipped()
    archive = written(
        tmp_path / "a.tar", tar_of([("README.txt", b"hello"), ("a.jpg", b"x"), ("b.json", b'{"text": 1}')])
    )
    (item,) = items_of(archive, skipped=skipped)
    assert (item.text, skipped.left_alone) == (None, 2)


@pytest.mark.parametrize("name", ["{}.jpg", "same.{}.jpg"])
def test_memory_does_not_grow_with_the_members(tmp_path, name):
    peaks = []
    for count in (200, 2000):
        archive = written(tmp_path / f"{count}.tar", tar_of([(name.format(number), b"x") for number in range(count)]))
        tracemalloc.start()
        assert sum(1 for _ in find_inputs([archive], InputOptions(), Skipped())) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_forward_streams_serve_what_lies_shortly_behind_from_memory():
    data, opened = random.Random(1).randbytes(3_000_000), []

    def open_stream():
        opened.append(1)
        return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data, 1)))

    stream = Forward(open_stream, window=1_000_000)
    for offset, size in ((0, 10), (1_500_000, 200_000), (900_000, 50_000), (1_400_000, 10)):
        assert stream.read_at(offset, size) == data[offset : offset + size]
    assert len(opened) == 1
    assert stream.read_at(2_999_990, 100) == data[-10:]
    assert stream.read_at(5, 5) == data[5:10]
    assert len(opened) == 2
    stream.close()
    assert stream.read_at(0, 3_000_000) == data


def test_what_is_in_use_is_not_closed_and_what_is_not_makes_room():
    class Thing:
        closed = False

        def close(self):
            self.closed = True

    files, used, *others = OpenFiles(2), Thing(), Thing(), Thing(), Thing(), Thing()
    with files.taken("used", lambda: used) as first:
        for number, other in enumerate(others):
            with files.taken(number, lambda other=other: other) as thing:
                assert thing is other
        with files.taken("used", Thing) as again:
            assert again is first
        assert [thing.closed for thing in (used, *others)] == [False, True, True, False, False]
    files.close()
    assert all(thing.closed for thing in (used, *others))


def test_many_archives_in_turn_from_many_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    items, wanted = [], []
    for number in range(8):
        members = [(f"{index}.jpg", b"%d %d" % (number, index)) for index in range(20)]
        mode = ("w", "w:gz")[number % 2]
        items += items_of(written(tmp_path / f"{number}.tar", tar_of(members, mode)))
        wanted += [data for _, data in members]
    order = list(range(len(items)))
    random.Random(2).shuffle(order)
    with Reader() as reader, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(reader.read, [items[at] for at in order])) == [wanted[at] for at in order]
