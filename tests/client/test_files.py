"""From command-line paths to images: order, links, what is left alone."""

import os

import pytest
from mlclip_client.errors import TooLarge, Unreadable
from mlclip_client.images import load
from mlclip_client.inputs.folders import Walk, find_images, image_suffixes


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(root, *paths):
    walk = Walk()
    images = [str(path.relative_to(root)) for path in find_images(paths or [root], walk)]
    return images, walk


def test_folders_are_searched_below_in_sorted_order(tmp_path):
    touch(tmp_path, "b.png", "a/2.JPG", "a/1.jpeg", "a/deep/0.webp", "c.gif", "c/x.tiff")
    assert found(tmp_path)[0] == ["a/1.jpeg", "a/2.JPG", "a/deep/0.webp", "b.png", "c/x.tiff", "c.gif"]


def test_other_files_are_left_alone_and_counted(tmp_path):
    touch(tmp_path, "a.png", "notes.txt", "sub/clip.mpg", "sub/figure.eps", "no_suffix")
    images, walk = found(tmp_path)
    assert (images, walk.left_alone, walk.unreadable) == (["a.png"], 4, [])


def test_named_file_is_always_taken_whatever_its_suffix(tmp_path):
    touch(tmp_path, "download", "a.png")
    assert found(tmp_path, tmp_path / "download", tmp_path / "a.png")[0] == ["download", "a.png"]


def test_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    touch(tmp_path, "x.jpg/y.png")
    assert found(tmp_path)[0] == ["x.jpg/y.png"]


def test_circles_of_links_end_and_each_folder_is_read_once(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "b/self").symlink_to(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    assert found(tmp_path)[0] == ["a/1.png", "b/2.png"]


def test_links_to_files_are_followed_and_dead_ones_become_rows(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a/1.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path)[0] == ["a/1.png", "dead.png", "link.png"]
    with pytest.raises(Unreadable, match="No such file"):
        load(tmp_path / "dead.png", 100)


def test_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def scandir(path):
        if path == tmp_path / "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    images, walk = found(tmp_path)
    assert images == ["b/2.png"]
    assert walk.unreadable == [f"{tmp_path / 'a'}: Permission denied"]


def test_files_are_found_while_they_are_used_not_before(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    images = find_images([tmp_path], Walk())
    assert next(images).name == "1.png"
    touch(tmp_path, "b/3.png")
    assert [path.name for path in images] == ["2.png", "3.png"]


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


def test_nul_in_a_name_is_an_error_of_that_image():
    with pytest.raises(Unreadable, match="null"):
        load("a\0b", 100)


def test_what_is_no_image_argument_is_refused():
    with pytest.raises(ValueError, match="not int"):
        load(7, 100)
