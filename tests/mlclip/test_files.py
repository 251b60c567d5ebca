"""What is written takes an older file's place whole or not at all, obeys the umask, and never replaces a device."""

import fcntl
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlclip_client.pixels import PixelSpec

from mlclip.checkpoint import EncoderRef, Run, load_run, save_run
from mlclip.data import Dataset, Item, write_manifest
from mlclip.data.changes import write_changes
from mlclip.encoders.folder import save
from mlclip.errors import CheckpointError, MlclipError, OutputError
from mlclip.files import check_output, locked, read_file, replacing_files, write_lines
from mlclip.heads import HEADS

from ..conftest import ARCHITECTURE

MANY = Dataset(tuple(Item(Path(f"{n}.png"), ("a", "b")) for n in range(5000)), ("a", "b"))


def small_run(classes=2):
    labels = tuple("abcdefgh"[:classes])
    spec = EncoderRef("mlclip-lite", None, "mlclip-lite", "0", PixelSpec(32))
    return Run(HEADS["sigmoid"](classes=classes, width=64), labels, np.full(classes, 0.5, np.float32), spec)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "write",
    [
        lambda folder, encoder: save_run(folder, replace(small_run(8), metrics={"val": ["figure"] * 10_000})),
        lambda folder, encoder: save(encoder.model, ARCHITECTURE, folder),
        lambda folder, encoder: write_manifest(MANY, folder / "manifest.jsonl"),
        lambda folder, encoder: write_lines(folder / "manifest.jsonl", ["line\n"] * 10_000),
    ],
    ids=["run", "encoder", "manifest", "lines"],
)
def test_a_full_disk_leaves_what_was_there(write, encoder, tmp_path, full_disk):
    save_run(tmp_path, small_run())
    (tmp_path / "manifest.jsonl").write_text("old")
    before = contents(tmp_path)
    with full_disk(5000), pytest.raises((MlclipError, OSError), match="File too large"):
        write(tmp_path, encoder)
    assert contents(tmp_path) == before
    with full_disk(5000), pytest.raises((MlclipError, OSError)):
        write(tmp_path / "new", encoder)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")], "nothing half done is left"


def test_content_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    steps = []
    for move in ("replace", "rename"):
        real = getattr(Path, move)
        monkeypatch.setattr(Path, move, lambda path, target, real=real: steps.append("move") or real(path, target))
    monkeypatch.setattr(os, "fsync", lambda handle: steps.append(Path(f"/proc/self/fd/{handle}").readlink().name))
    write_lines(tmp_path / "lines", ["new\n"])
    temporary, *rest = steps
    assert temporary.startswith(".lines.") and rest == ["move", tmp_path.name]
    steps.clear()
    with replacing_files(tmp_path, ("lines", "more")) as new:
        for name in ("lines", "more"):
            (new / name).write_text("newer")
    moves = steps.index("move")
    assert set(steps[:moves]) == {"lines", "more", "new"} and steps[moves:] == [*["move"] * 3, tmp_path.name]


def test_a_locked_folder_keeps_others_waiting_until_the_block_ends(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    with locked(tmp_path), pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


def test_a_folder_whose_files_cannot_all_take_their_places_gets_none(tmp_path, monkeypatch):
    rename, names = Path.rename, ("config", "labels", "weights")
    for name in names:
        (tmp_path / name).write_text("old")

    def refuse(path, target):
        if path.name == "labels" and path.parent.name == "new":
            raise OSError("no permission")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no permission"), replacing_files(tmp_path, names) as new:
        for name in names:
            (new / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "old")


def test_a_reader_never_takes_old_and_new_files_for_one_run(tmp_path, monkeypatch):
    """While files are renamed, the one that every reader opens first is not there."""
    save_run(tmp_path, small_run())
    seen, rename = [], Path.rename

    def watch(path, target):
        seen.append((tmp_path / "config.json").exists())
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watch)
    save_run(tmp_path, small_run(3))
    assert seen == [True, *[False] * (len(seen) - 1)] and len(seen) == 10
    assert load_run(tmp_path).labels == ("a", "b", "c")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_everything_obeys_the_umask(umask, encoder, tmp_path):
    before = os.umask(umask)
    try:
        save_run(tmp_path / "run", replace(small_run(), encoder=EncoderRef.of(encoder, own=True)))
        write_manifest(MANY, tmp_path / "out" / "m.jsonl")
        write_changes([], tmp_path / "out" / "m.changes.jsonl")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_what_may_not_be_read_or_written_is_said_as_that(tmp_path, unprivileged):
    folder = tmp_path / "run"
    save_run(folder, small_run())
    (folder / "head.safetensors").chmod(0)
    with unprivileged(), pytest.raises(CheckpointError, match="head.safetensors cannot be read: Permission denied"):
        load_run(folder)
    with unprivileged(), pytest.raises(CheckpointError, match="cannot write the run folder .*: Permission denied"):
        save_run(folder, small_run())
    with unprivileged(), pytest.raises(OutputError, match="cannot write into .*: permission denied"):
        check_output(folder)


def test_pipes_and_devices_are_written_to_and_links_are_followed(tmp_path):
    pipe, real, link = tmp_path / "pipe", tmp_path / "deep" / "real.jsonl", tmp_path / "link.jsonl"
    os.mkfifo(pipe)
    link.symlink_to(real)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_lines(pipe, ["a\n", "b\n"])
    reader.join()
    write_lines(link, ["c\n"])
    assert got == ["a\nb\n"] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink() and real.read_text() == "c\n"
    with pytest.raises(OSError, match="a pipe or a device"):
        read_file(pipe)
    with pytest.raises(OSError, match="null byte"):
        read_file(tmp_path / "a\0b")
    if os.geteuid() == 0:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        write_lines(tmp_path / "null", ["d\n"])
        assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "inputs", "suffixes", "message"),
    [
        ("labels.csv", ["labels.csv"], (), "is an input and would be overwritten"),
        ("again.csv", ["labels.csv"], (".csv",), "is an input"),
        ("own.csv", [], (".jsonl", ".ndjson"), "it is written as .jsonl: name it --out .*own.jsonl"),
        ("folder.jsonl", [], (".jsonl",), "is a folder: name another"),
        ("labels.csv", [], (), "is a file: name another"),
        ("labels.csv/deep/run", [], (), "cannot write into .*labels.csv: it is a file"),
    ],
)
def test_an_output_is_checked_before_any_work(name, inputs, suffixes, message, tmp_path):
    (tmp_path / "labels.csv").write_text("path,labels\n")
    (tmp_path / "again.csv").symlink_to(tmp_path / "labels.csv")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / name, [tmp_path / given for given in inputs], suffixes)
    os.mkfifo(tmp_path / "pipe")
    for fine in ("deep/er/m.jsonl", "M.JSONL", "pipe"):
        check_output(tmp_path / fine, [tmp_path / "labels.csv"], (".jsonl",))
