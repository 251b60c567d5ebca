"""Rebuilding the clip-art set: what SVG files say, uniform labels, pixels, groups, packages, and the whole."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, JpegImagePlugin

from mlclip.data import read_dataset
from mlclip.errors import DataError

RECIPE = Path(__file__).parents[2] / "recipes" / "openclipart"
sys.path.insert(0, str(RECIPE))  # its files import each other as scripts do
import packages as packages_module  # noqa: E402
import pictures as pictures_module  # noqa: E402
from build import hashed_split, published_splits, rebuild  # noqa: E402
from drawings import Drawing, find_drawings, read_drawing, singulars  # noqa: E402
from packages import find_tree  # noqa: E402
from pictures import Unusable, alike, shrink, thumbnail, to_jpeg  # noqa: E402

sys.path.remove(str(RECIPE))

SVG = """<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><metadata>
<rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about="">
<dc:title>{title}</dc:title><dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>
<cc:license rdf:resource="{licence}"/></cc:Work></rdf:RDF></metadata>{body}</svg>"""
PUBLIC = "http://web.resource.org/cc/PublicDomain"


def write_svg(path, keywords=(), title="", licence=PUBLIC, body=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
    path.write_text(SVG.format(keywords=items, title=title, licence=licence, body=body))
    return path


def drawing(tmp_path, **fields):
    return read_drawing("a/b/c", write_svg(tmp_path / "c.svg", **fields))


def test_keywords_come_as_typed_without_printed_references(tmp_path):
    read = drawing(tmp_path, keywords=["Cat", "", "HASH(0x8a4d510)", " cat ", "0x851ce54", "hash", "Cat"])
    assert read.keywords == ("Cat", "cat")


def test_texts_hold_no_addresses_and_no_references(tmp_path):
    assert drawing(tmp_path, title="Hash  browns\n hot (me@home.org)").title == "Hash browns hot"
    assert drawing(tmp_path, title="Jo Kim &lt;jo.kim@open.example.cz&gt;").title == "Jo Kim"
    assert drawing(tmp_path, title="HASH(0x89c79d4)").title == ""


@pytest.mark.parametrize(
    "licence, public",
    [(PUBLIC, True), ("http://creativecommons.org/licenses/publicdomain/", True), ("", False), ("…/GPL/2.0/", False)],
)
def test_the_licence_is_what_the_file_names(tmp_path, licence, public):
    assert drawing(tmp_path, licence=licence).public_domain is public


@pytest.mark.parametrize(
    "body, outside",
    [
        ('<image xlink:href="/home/a/photo.png"/>', True),
        ('<image href="b.png"/>', True),
        ('<image xlink:href="data:image/png;base64,xx"/>', False),
        ('<image xlink:href="#shape"/><use xlink:href="other.svg"/>', False),
        ("<image/>", False),
    ],
)
def test_pictures_that_show_other_files_are_known(tmp_path, body, outside):
    assert drawing(tmp_path, body=body).links_outside is outside


def test_what_is_not_xml_is_refused(tmp_path):
    (tmp_path / "c.svg").write_text("<svg>")
    with pytest.raises(DataError, match="cannot be read as SVG"):
        read_drawing("c", tmp_path / "c.svg")


def test_drawings_come_a_folders_own_files_first(tmp_path):
    for name in ("b/z", "b/a/y", "b/c", "a/x"):
        write_svg(tmp_path / f"{name}.svg")
    (tmp_path / "b" / "readme.txt").write_text("")
    assert [source for source, _ in find_drawings(tmp_path)] == ["a/x", "b/c", "b/z", "b/a/y"]


@pytest.mark.parametrize(
    "keywords, folders, labels",
    [
        (["Fruit_Bowl", "red-APPLE"], ["food"], {"fruit bowl", "red apple", "food"}),
        (["rome,italy", "jr."], [], {"rome", "italy", "jr"}),
        (["signs_and_symbols", "theme", "clip art", "svg"], ["unsorted"], set()),
        (["11", "4wheels", "a", "(c)", "me@home"], [], set()),
        (["space astronomy planet saturn", "united_nations_member"], [], {"united nations member"}),
        (["roadsign", "transport", "xmas", "lemon_theme_icon"], ["stickmen"],
         {"road sign", "transportation", "christmas", "lemon theme", "stick figure"}),
        (["envelope mail symbol"], [], {"envelope", "mail", "symbol"}),
        (["&eacute;toile", "x" * 27, "y" * 26], [], {"toile", "y" * 26}),
    ],
)  # fmt: skip
def test_labels_are_made_uniform(keywords, folders, labels):
    assert Drawing("/".join([*folders, "name"]), tuple(keywords), "", True, False).labels() == labels


def test_plurals_become_singulars_that_some_picture_carries():
    labels = [frozenset(names) for names in (("cats", "skies"), ("cat", "sky", "dogs"), ("darts", "dart", "gas"))]
    assert singulars(labels) == {"cats": "cat", "skies": "sky", "darts": "dart"}


def disc(path, size=(400, 300), colour=(200, 30, 30, 255), box=None, mode="RGBA"):
    picture = Image.new("RGBA", size)
    ImageDraw.Draw(picture).ellipse(box or (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert(mode).save(path)
    return path


def test_pictures_are_flattened_on_white_and_made_small(tmp_path):
    small = shrink(disc(tmp_path / "a.png"))
    assert small.mode == "RGB" and small.size == (160, 120)
    assert small.getpixel((0, 0)) == (255, 255, 255)
    assert small.getpixel((60, 45)) == (200, 30, 30)


def test_half_transparent_colour_is_mixed_with_white(tmp_path):
    small = shrink(disc(tmp_path / "a.png", size=(40, 40), colour=(0, 0, 200, 51)))
    assert small.getpixel((15, 15)) == (204, 204, 244)


@pytest.mark.parametrize(
    "size, small",
    [((100, 60), (100, 60)), ((273, 448), (98, 160)), ((640, 480), (160, 120)), ((3200, 427), (160, 22))],
)
def test_sizes_are_those_of_the_published_set(tmp_path, size, small):
    assert shrink(disc(tmp_path / "a.png", size=size)).size == small


def test_large_pictures_are_averaged_over_blocks_first(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, size=(960, 960, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    means = noise.reshape(320, 3, 320, 3, 3).mean(axis=(1, 3))
    expected = Image.fromarray(means.round().astype(np.uint8)).resize((160, 160), Image.Resampling.LANCZOS)
    found = np.asarray(shrink(tmp_path / "a.png"), dtype=np.int64)
    assert np.abs(found - np.asarray(expected)).max() <= 2


def test_what_cannot_be_used_says_why(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(Unusable, match="undecodable"):
        shrink(tmp_path / "text.png")
    with pytest.raises(Unusable, match="undecodable"):
        shrink(tmp_path / "missing.png")
    with pytest.raises(Unusable, match="smaller than 12 px"):
        shrink(disc(tmp_path / "thin.png", size=(200, 11)))
    with pytest.raises(Unusable, match="blank render"):
        shrink(disc(tmp_path / "blank.png", colour=(255, 255, 255, 255)))
    monkeypatch.setattr(pictures_module, "MOST_PIXELS", 3_000_000)
    with pytest.raises(Unusable, match="more than 3 million pixels"):
        shrink(disc(tmp_path / "large.png", size=(2000, 1501)))


def test_jpegs_have_quality_90_and_full_colour(tmp_path):
    data = to_jpeg(shrink(disc(tmp_path / "a.png")))
    (tmp_path / "a.jpg").write_bytes(data)
    shrink(tmp_path / "a.png").save(tmp_path / "b.jpg", quality=90, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as picture, Image.open(tmp_path / "b.jpg") as other:
        assert JpegImagePlugin.get_sampling(picture) == 0
        assert picture.quantization == other.quantization


def test_pictures_that_look_alike_are_those_of_a_float64_loop():
    random = np.random.default_rng(0)
    base = random.integers(20, 230, size=1728)
    moved = [base + random.normal(scale=scale, size=1728) for scale in (0, 3, 4.5, 8, 2)]
    rows = [np.clip(row, 0, 255).astype(np.uint8) for row in [*moved, random.integers(0, 255, size=1728), base]]
    sizes = [(160, 120)] * 6 + [(120, 160)]
    number = list(range(7))
    for _ in range(7):
        for a in range(7):
            for b in range(7):
                difference = np.sqrt(np.mean((rows[a].astype(float) - rows[b].astype(float)) ** 2))
                if difference < 4.95 and sizes[a] == sizes[b]:
                    number[a] = number[b] = min(number[a], number[b])
    found = np.array(alike(rows, sizes))
    np.testing.assert_array_equal(np.equal.outer(found, found), np.equal.outer(number, number))
    assert number == [0, 0, 0, 3, 0, 5, 6]


def test_thumbnails_are_24_by_24():
    assert thumbnail(Image.new("RGB", (48, 96), (1, 2, 3))).tolist() == [1, 2, 3] * 576


@pytest.fixture
def tree(tmp_path):
    """A small copy of the packages' layout, with something for every rule. Returns its folder."""
    root = tmp_path / "openclipart"

    def add(source, keywords=("thing",), *, colour=(200, 30, 30, 255), size=(60, 60), box=(10, 10, 50, 50), **fields):
        write_svg(root / "svg" / f"{source}.svg", keywords, title=source, **fields)
        disc(root / "png" / f"{source}.png", colour=colour, size=size, box=box)

    add("animals/cat", ["cats", "animal"])
    add("animals/cat_again", ["pet"])
    add("animals/cat_nearly", ["cat"], colour=(201, 31, 30, 255))
    add("food/apple", ["fruit"], colour=(10, 200, 30, 255))
    add("food/pear", ["fruits", "pear"], colour=(10, 100, 230, 255))
    add("food/unseen", ["fruit"], colour=(0, 0, 0, 255))
    add("unsorted/mute", ["theme"], colour=(90, 0, 90, 255))
    add("food/owned", licence="")
    add("food/linked", body='<image xlink:href="x.png"/>')
    add("food/blank", colour=(255, 255, 255, 255))
    add("food/tiny", size=(11, 11))
    add("people/clothing/pantyhose/legs")
    add("shapes/stars/star_09pt02step", colour=(7, 7, 7, 255), box=(0, 0, 20, 20))
    add("shapes/stars/star_11pt02step", colour=(7, 7, 90, 255), box=(0, 40, 20, 59))
    for kind in ("svg", "png"):
        os.symlink(root / kind / f"food/apple.{kind}", root / kind / f"food/link.{kind}")
    return root


PUBLISHED = {
    "animals/cat": "val",
    "food/apple": "train",
    "food/pear": "test",
    "shapes/stars/star_09pt02step": "train",
    "gone/away": "train",
}


def test_the_published_set_is_rebuilt_rule_by_rule(tree, tmp_path):
    out = tmp_path / "out"
    rebuilt = rebuild(tree, out, published=PUBLISHED)
    found = {item.path.relative_to(out).as_posix(): item for item in rebuilt.dataset.items}
    assert list(found) == [
        "images/animals/cat.jpg", "images/food/apple.jpg", "images/food/pear.jpg",
        "images/shapes/stars/star_09pt02step.jpg",
    ]  # fmt: skip
    assert found["images/animals/cat.jpg"].labels == ("animal", "cat", "pet")
    assert found["images/food/apple.jpg"].labels == ("food", "fruit")
    assert found["images/food/pear.jpg"].labels == ("food", "fruit", "pear")
    assert [item.split for item in rebuilt.dataset.items] == ["val", "train", "test", "train"]
    assert all(item.path.read_bytes() == to_jpeg(shrink(tree / "png" / f"{item.group}.png")) for item in found.values())
    assert rebuilt.missing == ("gone/away",)
    why = {change.what: (change.reason, change.partner) for change in rebuilt.changes if change.action == "dropped"}
    assert why == {
        "animals/cat_again": ("identical pixels", "animals/cat"),
        "animals/cat_nearly": ("not published", None),
        "food/unseen": ("not published", None),
        "unsorted/mute": ("no label left", None),
        "food/owned": ("no public-domain licence", None),
        "food/linked": ("the picture links an outside file", None),
        "food/blank": ("blank render", None),
        "food/tiny": ("smaller than 12 px", None),
        "people/clothing/pantyhose/legs": ("unsuitable", None),
        "shapes/stars/star_11pt02step": ("of a thinned series", None),
        "food/link": ("link to another file", None),
    }
    merged = [(change.what, change.partner, change.labels) for change in rebuilt.changes if change.action == "merged"]
    assert merged == [("animals/cat_again", "animals/cat", ("pet",))]
    files = len(list((tree / "svg").rglob("*.svg")))
    assert len(why) + len(rebuilt.dataset) == files


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_published_pictures_are_in_the_split_that_the_list_names(tree, tmp_path, split):
    rebuilt = rebuild(tree, tmp_path / "out", published=dict.fromkeys(PUBLISHED, split))
    assert rebuilt.dataset.split_counts == {split: 4}


def test_everything_adds_the_others_and_keeps_groups_in_one_split(tree, tmp_path):
    rebuilt = rebuild(tree, tmp_path / "out", published=PUBLISHED, everything=True)
    items = {item.path.stem: item for item in rebuilt.dataset.items}
    assert set(items) == {"cat", "cat_nearly", "apple", "pear", "unseen", "star_09pt02step"}
    assert items["cat_nearly"].group == items["cat"].group == "animals/cat"
    assert items["cat_nearly"].split == items["cat"].split == "val"
    assert items["unseen"].split == "train", "by the hash of its group"


def test_hashed_splits_are_60_20_20():
    counts = Counter(hashed_split(f"group {n}") for n in range(5000))
    assert [counts[name] / 5000 for name in ("train", "val", "test")] == pytest.approx([0.6, 0.2, 0.2], abs=0.02)


def test_a_tree_without_a_published_picture_is_refused(tree, tmp_path):
    with pytest.raises(DataError, match="none of the pictures is in it"):
        rebuild(tree, tmp_path / "out", published={})


def test_the_list_of_what_was_published_is_whole():
    splits = published_splits()
    assert Counter(splits.values()) == {"train": 2133, "val": 806, "test": 752}


def test_a_tree_is_found_where_packages_put_it(tree, tmp_path):
    assert find_tree(tree, tmp_path) == tree
    shutil.move(tree, tmp_path / "usr" / "share" / "openclipart")
    assert find_tree(tmp_path, tmp_path / "work") == tmp_path / "usr" / "share" / "openclipart"


@pytest.fixture
def packages(tree, tmp_path):
    """The tree as two Debian packages. Returns their folder."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for kind in ("svg", "png"):
        root = tmp_path / f"build-{kind}"
        shutil.copytree(tree / kind, root / "usr/share/openclipart" / kind, symlinks=True)
        (root / "DEBIAN").mkdir()
        fields = {"Package": f"openclipart-{kind}", "Version": "1.0", "Architecture": "all", "Maintainer": "A <a@b.c>"}
        control = "".join(f"{name}: {value}\n" for name, value in fields.items())
        (root / "DEBIAN" / "control").write_text(control + "Description: pictures\n")
        target = folder / f"openclipart-{kind}_1.0_all.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, target], check=True, capture_output=True)
    shutil.rmtree(tree)
    return folder


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_downloaded_packages_are_unpacked(packages, tmp_path):
    found = find_tree(packages, tmp_path / "work")
    assert found == tmp_path / "work" / "usr/share/openclipart"
    assert len(rebuild(found, tmp_path / "out", published=PUBLISHED).dataset) == 4


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_without_a_folder_the_packages_are_fetched_with_apt_get(packages, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text(f'#!/bin/sh\necho "$@" > {tools}/said\ncp {packages}/*.deb .\n')
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setattr(packages_module, "INSTALLED", tmp_path / "nowhere")
    assert (find_tree(None, tmp_path / "work") / "png").is_dir()
    assert (tools / "said").read_text() == "download openclipart-svg openclipart-png\n"


def test_without_apt_get_one_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(packages_module, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(
        DataError, match="`apt-get download openclipart-svg openclipart-png`, then give the folder: --from"
    ):
        find_tree(None, tmp_path / "work")
    with pytest.raises(DataError, match="nor both packages are in it"):
        find_tree(tmp_path, tmp_path / "work")


def test_a_failing_command_is_one_line(tmp_path):
    for kind in ("svg", "png"):
        (tmp_path / f"openclipart-{kind}_1_all.deb").write_text("no package")
    with pytest.raises(DataError, match="dpkg-deb"):
        find_tree(tmp_path, tmp_path / "work")


@pytest.mark.slow
def test_the_command_writes_what_mlclip_reads_and_reports_missing_pictures(tree, tmp_path):
    """As people run it, on a tree with one published picture."""
    published = "animals/2_dead_frogs_lumen_desig_01"
    write_svg(tree / "svg" / f"{published}.svg", ["frog"])
    disc(tree / "png" / f"{published}.png", colour=(1, 120, 30, 255))
    out = tmp_path / "set"
    command = [sys.executable, RECIPE / "build.py", "--from", tree, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 pictures: test 1" in done.stdout
    assert "not found: 3,690 of the published pictures" in done.stdout
    (item,) = read_dataset(out).items
    assert (item.split, item.labels) == ("test", ("animal", "frog")) and item.path.is_file()
    assert json.loads((out / "changes.jsonl").read_text().splitlines()[0])["action"] == "dropped"
    done = subprocess.run([*command, "--all"], capture_output=True, text=True)
    assert done.returncode == 3 and "6 pictures: " in done.stdout
