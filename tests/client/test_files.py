"""Image files: which are found in folders, in what order, what is left alone; and how a file is read."""

import os
from pathlib import Path

import pytest
from mlclip_client.errors import TooLarge, Unreadable
from mlclip_client.images import load
from mlclip_client.inputs import InputOptions, Skipped, find_inputs
from mlclip_client.inputs.folders import find_images
from mlclip_client.inputs.names import image_suffixes

from .input_files import paths_of, touch


def test_folders_are_searched_below_in_sorted_order(here):
    touch(here, "b.png", "a/2.JPG", "a/1.jpeg", "a/deep/0.webp", "c.gif", "c/x.tiff", "x.jpg/y.png")
    assert paths_of(".") == ["a/1.jpeg", "a/2.JPG", "a/deep/0.webp", "b.png", "c/x.tiff", "c.gif", "x.jpg/y.png"]


def test_other_files_are_left_alone_and_counted(here):
    touch(here, "a.png", "notes.txt", "sub/clip.mpg", "sub/figure.eps", "no_suffix", ".png")
    skipped = Skipped()
    assert paths_of(".", skipped=skipped) == ["a.png"]
    assert (skipped.left_alone, skipped.unreadable) == (5, [])


def test_circles_of_links_end_and_each_folder_is_read_once(here):
    touch(here, "a/1.png", "b/2.png")
    (here / "a/up").symlink_to(here)
    (here / "b/self").symlink_to(here / "b")
    (here / "c").symlink_to(here / "b")
    assert paths_of(".", "a", "c") == ["a/1.png", "b/2.png"]
    assert [str(path) for path in find_images([Path("b/2.png"), Path("gone"), Path("a"), Path("c")])] == [
        "b/2.png",
        "gone",
        "a/1.png",
        "a/up/b/2.png",
    ]


def test_folder_that_cannot_be_listed_is_reported(here, monkeypatch):
    touch(here, "a/1.png", "b/2.png")
    real = os.scandir

    def scandir(path):
        if path == Path("a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    skipped = Skipped()
    assert paths_of(".", skipped=skipped) == ["b/2.png"]
    assert skipped.unreadable == ["a: Permission denied"]


def test_files_are_found_while_they_are_used_not_before(here):
    touch(here, "a/1.png", "b/2.png")
    items = find_inputs(["."], InputOptions(), Skipped())
    assert next(items).path == "a/1.png"
    touch(here, "b/3.png")
    assert [item.path for item in items] == ["b/2.png", "b/3.png"]


def test_suffixes_are_those_that_can_be_decoded():
    suffixes = image_suffixes()
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= suffixes
    assert not {".eps", ".ps", ".mpg", ".pdf", ".txt", ".wmf", ""} & suffixes


def test_pipes_and_folders_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(Unreadable, match="not a regular file"):
            load(path, 100)


def test_size_limit_holds_for_files_and_bytes(tmp_path):
    (tmp_path / "x").write_bytes(bytes(101))
    for image in (tmp_path / "x", bytes(101)):
        with pytest.raises(TooLarge, match="101 bytes are over the limit of 100"):
            load(image, 100)
    assert load(bytes(100), 100) == bytes(100)


@pytest.mark.parametrize(("image", "error", "message"), [("a\0b", Unreadable, "null"), (7, ValueError, "not int")])
def test_what_cannot_be_an_image_is_refused(image, error, message):
    with pytest.raises(error, match=message):
        load(image, 100)
