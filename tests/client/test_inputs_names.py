"""From names to items: files, folders, patterns, stdin, addresses; and what is refused before anything starts."""

import io
import os
import sys
import tarfile
import threading
from collections import Counter

import fsspec
import pytest
from mlclip_client.errors import DownloadFailed, TooLarge, Unreadable
from mlclip_client.inputs import InputOptions, Item, Limits, Reader, Skipped, find_inputs

from .input_files import add_member, items_of, paths_of, touch


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


def test_names_are_taken_in_their_order_and_named_files_always(here):
    touch(here, "b/2.png", "b/1.jpg", "b/notes.md", "download", "z.png")
    skipped = Skipped()
    assert paths_of("z.png", "b", "download", "./z.png", skipped=skipped) == [
        "z.png",
        "b/1.jpg",
        "b/2.png",
        "download",
        "z.png",
    ]
    assert (skipped.left_alone, str(skipped)) == (1, "1 other file left alone")


def test_what_was_passed_by_is_said_in_words_and_nothing_is_nothing():
    assert str(Skipped()) == ""
    skipped = Skipped(left_alone=1200)
    skipped.skipped.update({"empty lines": 1, "folders in archives": 2})
    assert str(skipped) == "1,200 other files left alone; 1 empty line skipped; 2 folders in archives skipped"
    skipped = Skipped(skipped=Counter({"empty lines": 2, "folders in archives": 1}))
    assert str(skipped) == "2 empty lines skipped; 1 folder in an archive skipped"


def test_archives_and_manifests_in_folders_are_left_alone_and_said(here):
    touch(here, "d/a.png", "d/a.tar.gz", "d/B.PARQUET", "d/notes.md")
    skipped = Skipped()
    assert paths_of("d", skipped=skipped) == ["d/a.png"]
    assert str(skipped) == ("3 other files left alone; 2 of them archives or manifests: name them to have them read")


def test_patterns_and_braces_stand_for_what_exists(here):
    touch(here, "b1.jpg", "b2.jpg", "a.png", "deep/er/c.jpg", "x[1].jpg", "shard-007.tar")
    assert paths_of("b?.jpg", "**/c.jpg") == ["b1.jpg", "b2.jpg", "deep/er/c.jpg"]
    assert paths_of("{b2,a}.*") == ["b2.jpg", "a.png"]
    assert paths_of("b{1..2}.jpg") == ["b1.jpg", "b2.jpg"]
    assert paths_of("x[1].jpg") == ["x[1].jpg"]


def test_file_with_the_name_of_a_pattern_is_that_file(here):
    touch(here, "*.jpg", "{a,b}.jpg", "a.jpg", "b.jpg")
    assert paths_of("*.jpg", "{a,b}.jpg") == ["*.jpg", "{a,b}.jpg"]


def test_shards_with_braces_are_read_one_after_the_other(here):
    for number in (8, 9, 10):
        with tarfile.open(here / f"s-{number:03}.tar", "w") as tar:
            add_member(tar, f"{number}.jpg")
    assert paths_of("s-{008..010}.tar") == ["s-008.tar/8.jpg", "s-009.tar/9.jpg", "s-010.tar/10.jpg"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.jpg", "no such file or folder: gone.jpg"),
        ("gone.csv", "no such file or folder: gone.csv"),
        ("*.gif", r"nothing matches \*.gif"),
        ("a{1..3}.jpg", r"no such file or folder: a2.jpg \(from a\{1..3\}.jpg\)"),
        ("a{1..9999999}.jpg", "stand for more than 100,000 names"),
        ("a\0b", "NUL"),
        ("https://x.org/list.csv?a=b", "not read from the web: download it first"),
        ("https://x.org/shard.tar.gz", "not read from the web: download it first"),
        ("memory://nothing/here.jpg", "no such file or folder: memory://nothing/here.jpg"),
        ("memory://nothing/*.jpg", r"nothing matches memory://nothing/\*.jpg"),
        ("nonsense://x/a.jpg", "nonsense"),
        ("zip://a.jpg::http://10.0.0.1/x.zip", "chained addresses"),
        ("file:///nowhere/gone.jpg", "no such file or folder: /nowhere/gone.jpg"),
    ],
)
def test_what_stands_for_nothing_is_refused_before_anything_starts(here, memory, name, message):
    touch(here, "a1.jpg", "a3.jpg")
    with pytest.raises(ValueError, match=message) as caught:
        items_of("a1.jpg", name)
    assert "\n" not in str(caught.value)


def test_missing_package_is_named_with_its_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(fsspec.registry, "s3", raising=False) if "s3" in fsspec.registry else None
    with pytest.raises(ValueError, match="^s3:// needs a package: pip install s3fs$"):
        items_of("s3://bucket/a.jpg")
    with Reader() as reader, pytest.raises(DownloadFailed, match="pip install s3fs"):
        reader.read(Item("s3://bucket/a.jpg", "remote", "s3://bucket/a.jpg"))


@pytest.mark.parametrize(
    ("options", "names", "message"),
    [
        (InputOptions(column="x"), ["sub", "a1.jpg"], r"^--column x: no manifest is named \(\.parquet, "),
        (InputOptions(null=True), ["sub"], "^--null: neither a list"),
    ],
)
def test_options_about_files_that_nobody_named_are_refused(here, options, names, message):
    (here / "sub").mkdir()
    (here / "a1.jpg").touch()
    with pytest.raises(ValueError, match=message):
        find_inputs(names, options, Skipped())
    (here / "l.txt").write_bytes(b"a1.jpg")
    (here / "m.csv").write_text("x,path\na1.jpg,a1.jpg")
    assert len(list(find_inputs([*names, "l.txt", "m.csv"], options, Skipped()))) > len(names)


def test_stdin_is_named_once(here):
    with pytest.raises(ValueError, match="named twice"):
        items_of("-", "-")


HOSTILE = [
    b"two\nlines.jpg",
    b"-rf.jpg",
    b" .jpg",
    b"\xff\xfe.jpg",
    b"a\\b.jpg",
    b"x" * 250 + b".jpg",
    b"{.jpg",
    b"::.jpg",
]


def test_hostile_file_names_are_found_read_and_kept(here):
    for name in HOSTILE:
        (here / "d").mkdir(exist_ok=True)
        with open(b"d/" + name, "wb") as file:
            file.write(name)
    items = items_of("d")
    assert sorted(os.fsencode(item.path) for item in items) == sorted(b"d/" + name for name in HOSTILE)
    with Reader() as reader:
        for item in items:
            assert b"d/" + reader.read(item) == os.fsencode(item.path)
            assert items_of(item.path) == [item]


def test_special_files_and_links_to_themselves_are_errors_of_theirs(here):
    os.mkfifo(here / "pipe.jpg")
    os.mkfifo(here / "pipe.csv")
    (here / "self.jpg").symlink_to("self.jpg")
    (here / "dead.jpg").symlink_to("nowhere")
    touch(here, "x.jpg/y.png")
    (here / "link.jpg").symlink_to("x.jpg/y.png")
    items = items_of(".", "pipe.jpg", "pipe.csv")
    assert [item.path for item in items] == [
        "dead.jpg",
        "link.jpg",
        "pipe.jpg",
        "self.jpg",
        "x.jpg/y.png",
        "pipe.jpg",
        "pipe.csv",
    ]
    errors = {}
    with Reader() as reader:
        for item in items:
            try:
                reader.read(item)
            except Unreadable as error:
                errors[item.path] = str(error)
    assert errors == {
        "dead.jpg": "No such file or directory",
        "pipe.jpg": "not a regular file",
        "pipe.csv": "not a regular file",
        "self.jpg": "Too many levels of symbolic links",
    }


@pytest.fixture
def deep(here):
    """The path of a file below more folders than Python's stack has frames.

    They go again with the test: shutil.rmtree walks recursively on Python 3.11, so pytest could not remove them.
    """
    depth = sys.getrecursionlimit() + 100
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    with open("z.jpg", "wb") as file:
        file.write(b"x")
    os.chdir(here)
    yield "d/" * depth + "z.jpg"
    os.chdir(here / ("d/" * depth))
    os.unlink("z.jpg")
    for _ in range(depth):
        os.chdir("..")
        os.rmdir("d")


def test_folders_deeper_than_pythons_stack_are_walked(deep):
    assert paths_of(".") == [deep]


def test_stores_have_files_folders_patterns_and_archives(memory):
    for name in ("b/2.jpg", "b/1.png", "b/notes.md", "b/sub/0.jpg", "c.jpg"):
        memory.pipe(f"/bucket/{name}", name.encode())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        add_member(tar, "m.jpg", b"member")
    memory.pipe("/bucket/a.tar.gz", buffer.getvalue())
    skipped = Skipped()
    names = [
        "memory://bucket/b",
        "memory://bucket/*.jpg",
        "memory://bucket/a.tar.gz",
        "memory://bucket/{c.jpg,b/1.png}",
    ]
    items = items_of(*names, skipped=skipped)
    assert [item.path.removeprefix("memory://bucket/").removeprefix("memory:///bucket/") for item in items] == [
        "b/1.png",
        "b/2.jpg",
        "b/sub/0.jpg",
        "c.jpg",
        "a.tar.gz/m.jpg",
        "c.jpg",
        "b/1.png",
    ]
    assert skipped.left_alone == 1
    with Reader() as reader:
        wanted = [b"b/1.png", b"b/2.jpg", b"b/sub/0.jpg", b"c.jpg", b"member", b"c.jpg", b"b/1.png"]
        assert [reader.read(item) for item in items] == wanted
        with pytest.raises(DownloadFailed, match="no such file"):
            reader.read(Item("x", "remote", "memory://bucket/gone.jpg"))
    with Reader(Limits(max_bytes=6)) as reader, pytest.raises(TooLarge):
        reader.read(items[0])


def test_addresses_of_files_are_files(here):
    touch(here, "a b.jpg", "d/c.jpg")
    assert paths_of(f"file://{here}/a%20b.jpg", f"file://localhost{here}/d") == [f"{here}/a b.jpg", f"{here}/d/c.jpg"]


def test_protocols_that_name_machines_need_leave():
    item = Item("ftp://10.0.0.1/a.jpg", "remote", "ftp://10.0.0.1/a.jpg")
    with Reader() as reader, pytest.raises(DownloadFailed, match="may reach private machines; --private allows it"):
        reader.read(item)


def test_stores_that_never_answer_are_given_up(monkeypatch):
    import mlclip_client.inputs.reader as module

    released = threading.Event()
    monkeypatch.setattr(module, "download", lambda address, limit: released.wait(60))
    with Reader(Limits(download_seconds=0.05)) as reader:
        with pytest.raises(DownloadFailed, match=r"not whole within 0\.05 s"):
            reader.read(Item("memory://a.jpg", "remote", "memory://a.jpg"))
        released.set()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_bytes": 0},
        {"connections": 0},
        {"per_host": 0},
        {"download_seconds": 0},
        {"download_seconds": float("inf")},
        {"redirects": -1},
        {"user_agent": "a\r\nb"},
    ],
)
def test_limits_that_make_no_sense_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Limits(**fields)
