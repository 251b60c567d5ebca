"""The report's page in a real browser: opened from a file, used with mouse and keys, read back."""

import hashlib
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlclip_client.report import write_report
from PIL import Image

from .input_files import answer_of, encoded

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="the report's page is tested with playwright")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the report's page is tested in Debian's chromium: apt install it"
)

CLASSES = ("bird", "cat", "dog", "fish", "owl", "yak")
THRESHOLDS = np.float32([0.5, 0.3, 0.5, 0.6, 0.4, 0.2])
HEAD = {"labels": CLASSES, "thresholds": THRESHOLDS.tolist(), "labels_sha256": "ab" * 32, "version": "4"}
HOSTILE = (
    "<img src=x onerror=window.hit=1>.png",
    "</script><script>window.hit=1</script>.png",
    "line\nbreak\u2028.png",
    "\u202egnp.exe",
    "caf\\xe9 & 'quotes' \"double\".png",
    "مرحبا.png",
)


def answer(scores, top_k=6, whole=True):
    return answer_of(scores, HEAD, top_k, whole)


def png(color, size):
    return encoded(Image.new("RGB", size, color))


def numbered(number):
    return png((number * 7 % 256, number * 31 % 256, number % 256), (20 + number % 5, 20))


class Case:
    """A folder with images, their rows and their report."""

    def __init__(self, folder, names, named=True, **options):
        self.folder = folder
        self.names = names
        self.named = named
        self.scores = np.random.default_rng(5).random((len(names), len(CLASSES))).astype(np.float32) ** 2
        self.rows = [
            {"path": name, "error_kind": None, "error": None, "answers": {"mld": answer(scores, **options)}}
            for name, scores in zip(names, self.scores, strict=True)
        ]
        self.page = folder / "report.html"

    def images(self):
        (self.folder / "images").mkdir()
        for number, name in enumerate(self.names):
            (self.folder / "images" / name).write_bytes(numbered(number))
            self.rows[number]["sha256"] = hashlib.sha256(numbered(number)).hexdigest()
        return self

    def write(self, **options):
        table = pa.Table.from_struct_array(pa.array(self.rows))
        if self.named:
            heads = {name: HEAD for row in self.rows for name in row["answers"] or ()}
            table = table.replace_schema_metadata({"mlclip_heads": json.dumps(heads)})
        pq.write_table(table, self.folder / "labels.parquet")
        write_report(self.folder / "labels.parquet", self.page, images=self.folder / "images", **options)
        return self

    def selected(self, threshold=None):
        """Bool [images, classes]."""
        return self.scores >= (THRESHOLDS if threshold is None else np.float32(threshold))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM)
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """Open a page from its file; afterwards nothing may have been said on the console or asked of a network."""
    contexts, said, asked = [], [], []

    def open_page(path, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1300, "height": 850}} | options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [address for address in asked if not address.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("case"), [f"{number:03}.png" for number in range(60)]).images().write()


@pytest.fixture
def page(case, visit):
    return visit(case.page)


BROKEN_WORDS = """tab => {
  const broken = [];
  const walker = document.createTreeWalker(document.getElementById(`view-${tab}`), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    for (const { 0: word, index } of walker.currentNode.data.matchAll(/[\\w,]+/g)) {
      const range = document.createRange();
      range.setStart(walker.currentNode, index);
      range.setEnd(walker.currentNode, index + word.length);
      if (range.getClientRects().length > 1) broken.push(word);
    }
  }
  return broken;
}"""


def texts(locator):
    """Texts of all that a locator finds, once the page has drawn the first."""
    locator.first.wait_for()
    return locator.all_inner_texts()


def wait_text(page, name, text):
    page.wait_for_function("([id, text]) => document.getElementById(id).textContent.includes(text)", arg=[name, text])


def wait_found(page, count, total=60):
    page.wait_for_function(
        "text => document.getElementById('found').textContent === text", arg=f"{count} of {total} images"
    )


def option(page, name):
    return page.locator("#label-list li", has_text=name)


def test_pictures_and_numbers_are_those_of_the_rows(case, page):
    page.wait_for_function("() => document.querySelector('.cell img')?.naturalWidth === 20")
    none = int((~case.selected().any(axis=1)).sum())
    assert page.inner_text("#summary") == f"60 images · {60 - none} with a label · {none} without · 0 errors"
    total = int(case.selected().sum())
    assert page.inner_text("#effect").startswith(f"{total} labels selected, {total / 60:.2f} per image; {none} images")
    for place, name in enumerate(CLASSES):
        assert option(page, name).locator(".count").inner_text() == str(case.selected()[:, place].sum())


def test_labels_filter_by_mouse_and_by_keys(case, page):
    chosen = case.selected()
    option(page, "cat").click()
    wait_found(page, chosen[:, 1].sum())
    page.keyboard.press("l")
    page.keyboard.type("ya")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    wait_found(page, (chosen[:, 1] & chosen[:, 5]).sum())
    assert option(page, "yak").get_attribute("aria-selected") == "true"
    page.click("#clear")
    wait_found(page, 60)


def test_another_filter_starts_at_the_top_and_another_threshold_does_not(case, visit):
    page = visit(case.page, viewport={"width": 1300, "height": 400})
    page.focus("#gallery")
    page.keyboard.press("End")
    top = page.evaluate("() => document.getElementById('gallery').scrollTop")
    assert top > 0
    page.locator("#slider").fill("0.9")
    wait_text(page, "effect", "would be selected")
    assert page.evaluate("() => document.getElementById('gallery').scrollTop") == top
    page.fill("#search", "0")
    wait_found(page, 60)
    page.wait_for_function("() => document.getElementById('gallery').scrollTop === 0")


def test_path_search_and_kinds_filter(case, page):
    page.keyboard.press("/")
    page.keyboard.type("01")
    wait_found(page, sum("01" in name for name in case.names))
    page.click("#clear")
    page.get_by_label("Without a label").check()
    wait_found(page, (~case.selected().any(axis=1)).sum())


def test_slider_shows_what_another_threshold_selects(case, page):
    option(page, "dog").click()
    own = case.selected()
    for threshold in (0.05, 0.4, 0.925):
        page.locator("#slider").fill(str(threshold))
        now = case.selected(threshold)
        wait_found(page, now[:, 2].sum())
        gained, lost = (now & ~own).sum(), (own & ~now).sum()
        assert f"{now.sum()} labels would be selected" in page.inner_text("#effect")
        assert f"{gained} more, {lost} fewer" in page.inner_text("#effect")
        assert not page.locator("#hidden-note").is_visible()
    page.get_by_label("Each label’s own").check()
    wait_found(page, own[:, 2].sum())


def test_slider_says_how_many_images_may_hide_labels(tmp_path, visit):
    case = Case(tmp_path, [f"{number}" for number in range(60)], top_k=2, whole=False).write()
    page = visit(case.page)
    page.locator("#slider").fill("0.15")
    hiding = (np.sort(case.scores, axis=1)[:, -2] >= np.float32(0.15)).sum()
    wait_text(page, "hidden-note", f"In {hiding} images, labels beyond the 2 best may pass too")


def test_own_threshold_is_that_of_the_head(case, page):
    option(page, "fish").click()
    wait_text(page, "histogram-note", "Its own threshold: 0.6000.")


def test_own_threshold_is_between_the_scores_if_the_file_does_not_have_it(tmp_path, visit):
    page = visit(Case(tmp_path, [f"{number}" for number in range(60)], named=False).write().page)
    option(page, "fish").click()
    wait_text(page, "histogram-note", "fish")
    low, high = (float(word.strip(".")) for word in page.inner_text("#histogram-note").split() if word.startswith("0."))
    assert low < THRESHOLDS[3] <= high


def test_order_by_score_of_the_chosen_label(case, page):
    option(page, "owl").click()
    page.select_option("#sort", "low")
    rows = np.flatnonzero(case.selected()[:, 4])
    wanted = rows[np.argsort(case.scores[rows, 4])][:3].tolist()
    shown = "rows => rows.every((row, place) => document.querySelector(`#cell-${place}`).dataset.row === String(row))"
    page.wait_for_function(shown, arg=wanted)


def test_all_by_keyboard(case, page):
    page.focus("#gallery")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    place = 1 + page.evaluate(
        "() => new Set([...document.querySelectorAll('.cell')].map(c => c.style.transform.split(',')[0])).size"
    )
    assert page.get_attribute("#gallery", "aria-activedescendant") == f"cell-{place}"
    page.keyboard.press("Enter")
    assert page.inner_text("#detail-path") == f"{place:03}.png"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#detail-path") == f"{place + 1:03}.png"
    boxes = page.locator("#detail-labels input")
    before = boxes.nth(1).is_checked()
    page.keyboard.press("2")
    assert boxes.nth(1).is_checked() is not before
    assert page.inner_text("#detail-state") == "changed by you"
    page.keyboard.press("r")
    assert boxes.nth(1).is_checked() is before
    page.keyboard.press("c")
    assert page.inner_text("#detail-path") == f"{place + 2:03}.png"
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    assert page.evaluate("() => document.activeElement.id") == "gallery"
    assert page.inner_text("#checked-count") == "1"
    page.keyboard.press("End")
    assert page.get_attribute("#gallery", "aria-activedescendant") == "cell-59"


def blue_size(page):
    """Width and height of what is blue in the large view, on the screen."""
    page.locator("#detail-picture").evaluate("image => image.decode()")
    shot = Image.open(io.BytesIO(page.locator("#detail .stage").screenshot())).convert("RGB")
    red, green, blue = np.moveaxis(np.array(shot).astype(int), 2, 0)
    left, top, right, bottom = Image.fromarray((blue > 200) & (red < 60) & (green < 60)).getbbox()
    return right - left, bottom - top


def test_detail_shows_scores_and_the_image_itself_at_its_own_size(tmp_path, visit):
    case = Case(tmp_path, ["one image.png"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one image.png").write_bytes(png((0, 0, 255), (200, 170)))
    page = visit(case.write().page)
    page.click(".cell")
    page.wait_for_function("() => document.getElementById('detail-picture').naturalWidth === 200")
    assert blue_size(page) == (200, 170)
    assert page.inner_text("#detail-missing") == ""
    scores = [float(text) for text in texts(page.locator("#detail-labels .soft"))]
    assert scores == pytest.approx(sorted(case.scores[0].tolist(), reverse=True), abs=1e-4)


def test_a_thumbnail_is_shown_as_one_where_the_image_is_out_of_reach(tmp_path, visit):
    page = visit(Case(tmp_path, ["one.png"]).write(read=lambda path: png((0, 0, 255), (700, 500))).page)
    page.click(".cell")
    wait_text(page, "detail-missing", "Thumbnail: this page cannot load the image itself.")
    assert blue_size(page) == (160, 114)


def test_addresses_are_links_that_the_page_never_follows(tmp_path, visit):
    web = ["https://example.org/a b.png?x=<1>", "HTTP://example.org/deep/b.png"]
    other = ["s3://bucket/c.png", "javascript://example.org/%0aalert(1)", "d.png"]
    case = Case(tmp_path, [*web, *other])
    case.rows[1] |= {"answers": None, "error_kind": "download", "error": "404"}
    page = visit(case.write().page)
    assert texts(page.locator(".cell .frame")) == ["not fetched", "download", *["not fetched"] * 2, "no picture"]
    for place, name in enumerate(case.names):
        page.click(f"#cell-{place}")
        assert page.inner_text("#detail-path") == name
        links = "all => all.map(each => [each.getAttribute('href'), each.target, each.rel])"
        links = page.locator("#detail a").evaluate_all(links)
        assert links == ([[name, "_blank", "noopener noreferrer"]] * 2 if name in web else [])
        because = "it could not be read" if name == "d.png" else "a report fetches nothing from addresses"
        wait_text(page, "detail-missing", because)
        page.keyboard.press("Escape")
    page.click("#tab-about")
    wait_text(page, "view-about", "Images at addresses have no picture here")


def correct(page, case):
    """Correct three images by hand; gives path -> labels as they must be read back."""
    wanted = {}
    page.click("#cell-0")
    for _ in range(3):
        row = int(page.get_attribute("#detail-picture", "data-row"))
        labels = {CLASSES[place] for place in np.flatnonzero(case.selected()[row])}
        page.keyboard.press("1")
        labels ^= {CLASSES[case.scores[row].argmax()]}
        page.fill("#detail-new", "zebra crossing")
        page.press("#detail-new", "Enter")
        wanted[case.names[row]] = labels | {"zebra crossing"}
        page.locator("#detail-next").click()
    page.keyboard.press("Escape")
    return wanted


def save(page, target, format_, which):
    page.click("#export-open")
    page.check(f"#export input[value={which}]")
    page.check(f"#export input[value={format_}]")
    with page.expect_download() as download:
        page.click("#export-save")
    assert download.value.suggested_filename == f"corrected.{format_}"
    download.value.save_as(target)
    command = f"mlclip data read corrected.{format_} --images {target.parent / 'images'}"
    assert page.inner_text("#export-command") == command


def held_out(folder):
    """Labelled images for validation and test, which corrections join as training data."""
    rows = []
    for number, split in enumerate(("val", "test")):
        (folder / "images" / f"{split}.png").write_bytes(numbered(100 + number))
        rows.append({"path": f"{split}.png", "labels": [*CLASSES, "zebra crossing"], "split": split})
    manifest = folder / "known.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.mark.parametrize(("format_", "which"), [("jsonl", "checked"), ("csv", "all")])
def test_corrections_are_read_back_by_mlclip(tmp_path, visit, format_, which):
    from typer.testing import CliRunner

    from mlclip.cli import app

    case = Case(tmp_path, ["plain.png", 'com,ma "q".png', "línea\nnew.png", "=1+1.png", "z.png"]).images().write()
    page = visit(case.page)
    wanted = correct(page, case)
    target = tmp_path / f"corrected.{format_}"
    save(page, target, format_, which)
    if which == "all":
        for name, chosen in zip(case.names, case.selected(), strict=True):
            wanted.setdefault(name, {CLASSES[place] for place in np.flatnonzero(chosen)})
    out = tmp_path / "manifest.jsonl"
    known = held_out(tmp_path)
    command = ["data", "read", f"train={target}", str(known), "--images", str(tmp_path / "images"), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    read = {line["path"].removeprefix("images/"): set(line["labels"]) for line in lines if line["split"] == "train"}
    assert read == {name: labels for name, labels in wanted.items() if labels}
    assert len(read) == (3 if which == "checked" else 5)


def test_corrections_belong_to_a_list_of_labels(tmp_path, visit):
    case = Case(tmp_path, [f"{number}" for number in range(4)])
    for row in case.rows:
        said = row["answers"]["mld"]
        row["answers"] |= {"same": said, "other": said | {"labels_sha256": "cd" * 32}}
    page = visit(case.write().page)
    correct(page, case)
    for name, count in (("other", "0"), ("same", "3"), ("mld", "3")):
        page.select_option("#head", label=name)
        wait_text(page, "checked-count", count)


def test_corrections_survive_a_closed_tab_and_can_be_forgotten(case, page):
    wanted = correct(page, case)
    again = page.context.new_page()
    page.close()
    again.goto(case.page.as_uri())
    again.wait_for_selector("body[data-ready]")
    assert again.inner_text("#checked-count") == "3"
    again.click("#cell-1")
    names = texts(again.locator("#detail-labels label", has=again.locator("input:checked")).locator("bdi"))
    assert set(names) == wanted[case.names[1]]
    again.keyboard.press("Escape")
    again.click("#export-open")
    again.click("#export summary")
    again.click("#export-forget")
    again.wait_for_function("() => document.getElementById('checked-count').textContent === '0'")
    assert again.evaluate("() => localStorage.length") == 0


def test_agreement_with_what_was_checked_follows_the_slider(case, page):
    said = correct(page, case)
    for threshold in (0.2, 0.7):
        page.locator("#slider").fill(str(threshold))
        now = {
            name: {CLASSES[n] for n in np.flatnonzero(case.selected(threshold)[case.names.index(name)])}
            for name in said
        }
        both = sum(len(now[name] & said[name]) for name in said)
        precision, recall = (100 * both / sum(map(len, side.values())) for side in (now, said))
        wait_text(page, "agreement", f"precision {precision:.1f} %, recall {recall:.1f} %")


def test_hostile_names_stay_text(tmp_path, visit):
    case = Case(tmp_path, list(HOSTILE))
    for row in case.rows[:2]:
        row |= {"answers": None, "error_kind": row["path"], "error": row["path"]}
    page = visit(case.write().page)
    shown = texts(page.locator(".cell .name"))
    assert shown[0] == HOSTILE[0]
    assert shown[1] == "script>.png", "the last part of a path"
    assert shown[2] == "line␊break\ufffd.png"
    assert shown[3] == "\ufffdgnp.exe"
    assert shown[4:] == list(HOSTILE[4:])
    for place, name in enumerate(HOSTILE):
        page.click(f"#cell-{place}")
        if place not in (2, 3):
            assert page.inner_text("#detail-path") == name
        page.keyboard.press("Escape")
    for tab in ("labels", "errors", "about"):
        page.click(f"#tab-{tab}")
    assert page.evaluate("() => window.hit") is None
    assert page.locator("img[src=x]").count() == 0


def test_policy_stops_whatever_would_load_from_elsewhere(case, browser):
    page = browser.new_page()
    page.goto(case.page.as_uri())
    page.evaluate(
        """() => {
          window.blocked = [];
          document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
          new Image().src = "http://127.0.0.1:9/x.png";
          document.body.insertAdjacentHTML("beforeend", '<p onclick="1" style="color:red"></p>');
        }"""
    )
    page.wait_for_function("() => blocked.length === 3")
    blocked = page.evaluate("() => blocked.sort()")
    page.close()
    assert blocked == ["img-src", "script-src-attr", "style-src-attr"]


def test_errors_are_counted_and_lead_to_their_images(tmp_path, visit):
    case = Case(tmp_path, [f"{number}" for number in range(9)])
    kinds = ["decode"] * 3 + ["deadline"] * 2
    for row, kind in zip(case.rows, kinds, strict=False):
        row |= {"answers": None, "error_kind": kind, "error": f"because of {row['path']}"}
    page = visit(case.write().page)
    assert page.inner_text("#summary").endswith("5 errors")
    page.click("#tab-errors")
    assert texts(page.locator("#view-errors table").first.locator("tbody tr")) == ["3\tdecode", "2\tdeadline"]
    page.click("#view-errors >> text=deadline: because of 4")
    wait_text(page, "found", "1 of 9 images with the error “deadline”")
    assert page.get_attribute(".cell", "data-row") == "4"
    assert page.inner_text(".cell .said") == "deadline"


def test_heat_map_filters_by_both_labels(case, page):
    page.click("#tab-labels")
    names = texts(page.locator(".heat tbody th"))
    chosen = case.selected()
    assert names == [CLASSES[place] for place in np.argsort(-chosen.sum(axis=0), kind="stable")]
    first, second = (chosen[:, CLASSES.index(name)] for name in names[:2])
    cell = page.locator(".heat tbody tr").first.locator("button").nth(1)
    assert cell.inner_text() == str((first & second).sum())
    page.locator(".heat button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_found(page, (first & second).sum())
    assert page.locator("#view-images").is_visible()


def test_heads_are_looked_at_one_by_one(tmp_path, visit):
    case = Case(tmp_path, [f"{number}" for number in range(30)])
    other = np.random.default_rng(6).random((30, len(CLASSES))).astype(np.float32)
    for row, scores in zip(case.rows, other, strict=True):
        row["answers"]["sigmoid"] = answer(scores)
    page = visit(case.write().page)
    page.select_option("#head", label="sigmoid")
    wait_text(page, "effect", f"{(other >= THRESHOLDS).sum()} labels selected")
    option(page, "cat").click()
    page.select_option("#head", label="mld")
    wait_found(page, case.selected()[:, 1].sum(), 30)


def test_references_neighbours_and_copies_explain_an_image(tmp_path, visit):
    case = Case(tmp_path, [f"{number}.png" for number in range(6)]).images()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "train.png")
    named = [{"id": "train.png", "labels": ["cat", "owl"], "weight": 0.75}, {"id": "gone.png", "weight": 0.25}]
    for number, row in enumerate(case.rows):
        row |= {"sha256": "same" if number in (1, 4) else f"{number}", "embedding": [np.cos(number), np.sin(number)]}
        row["answers"]["mld"]["references"] = named
    page = visit(case.write().page)
    page.click("#cell-1")
    strips = page.locator("#detail-related .strip")
    wanted = ["75.0 %", "cat, owl", "train.png", "25.0 %", "no label", "gone.png"]
    assert texts(strips.nth(0).locator("p")) == wanted
    strips.nth(0).locator("img").wait_for()
    similar = sorted((other for other in range(6) if other != 1), key=lambda other: -np.cos(other - 1))
    assert texts(strips.nth(1).locator("p:last-child")) == [f"{other}.png" for other in similar]
    assert strips.nth(1).locator("p").first.inner_text() == f"{np.cos(similar[0] - 1):.3f}"
    assert texts(strips.nth(2).locator("p:last-child")) == ["4.png"]
    strips.nth(2).locator("button").click()
    assert page.inner_text("#detail-path") == "4.png"
    page.keyboard.press("Escape")
    page.get_by_label("Same file elsewhere").check()
    wait_found(page, 2, 6)


def test_pictures_beside_the_page_are_loaded_when_they_come_into_sight(tmp_path, visit, monkeypatch):
    monkeypatch.setattr("mlclip_client.report.assemble.INLINE", 50)
    case = Case(tmp_path, [f"{number:03}.png" for number in range(260)]).images().write()
    page = visit(case.page)
    loaded = []
    page.on("request", lambda request: loaded.append(request.url) if "report_files" in request.url else None)
    page.locator(".cell img").first.wait_for()
    page.focus("#gallery")
    page.keyboard.press("End")
    page.locator("#cell-259 img").wait_for()
    width = page.locator("#cell-259 img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert width == 20 + 259 % 5
    assert 1 <= len(loaded) <= 3, "only the packs in sight"


def test_fifty_thousand_rows_keep_the_page_small(tmp_path, visit):
    picked = np.random.default_rng(0).integers(0, 2, 50_000)
    names = [f"shard-{number // 1000:03}/{number:08}.jpg" for number in range(50_000)]
    best = {"top_labels": ["cat", "dog", "owl"]}
    two = [
        {"mld": {"labels": ["cat"], "scores": [0.9], "top_scores": [0.9, 0.5, 0.25]} | best},
        {"mld": {"labels": [], "scores": [], "top_scores": [0.4, 0.3, 0.2]} | best},
    ]
    pq.write_table(pa.table({"path": names, "answers": pa.array(two).take(picked)}), tmp_path / "labels.parquet")
    written = write_report(tmp_path / "labels.parquet", tmp_path / "report.html", read=lambda path: b"")
    assert written.rows == 50_000
    page = visit(tmp_path / "report.html")
    nodes = "() => document.getElementsByTagName('*').length"
    most = page.evaluate(nodes)
    assert most < 1500
    for share in (0.3, 0.7, 1):
        page.evaluate(
            "share => { const box = document.getElementById('gallery'); box.scrollTop = box.scrollHeight * share; }",
            share,
        )
        line = f"[...document.querySelectorAll('.cell')].some(c => Number(c.dataset.row) >= {int(49_900 * share)})"
        page.wait_for_function(f"() => {line}")
        most = max(most, page.evaluate(nodes))
    assert most < 1500
    page.locator("#slider").fill("0.45")
    cats = int((picked == 0).sum())
    wait_text(page, "effect", f"{2 * cats:,} labels would be selected")
    page.keyboard.press("/")
    page.keyboard.type("shard-049/00049999")
    wait_found(page, 1, "50,000")
    page.click(".cell")
    assert page.inner_text("#detail-path") == names[-1]


def test_rows_without_any_answer_make_a_page_too(tmp_path, visit):
    source = tmp_path / "x.jsonl"
    source.write_text('{"path": "a", "error_kind": "decode", "error": "broken"}\n{"path": null}\n')
    write_report(source, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    assert page.inner_text("#summary") == "2 images · 1 error"
    for tab in ("labels", "errors", "about"):
        page.click(f"#tab-{tab}")
    page.click("#tab-images")
    page.click("#cell-1")
    assert page.inner_text("#detail-path") == "(image from memory)"


@pytest.mark.parametrize("width", [1280, 390])
def test_tables_break_lines_between_words(tmp_path, visit, width):
    case = Case(tmp_path, ["a.png", "b.png"])
    for row in case.rows:
        said = row["answers"].pop("mld") | {"model": "heads_mlclip-lite_bytes"}
        row["answers"] = {"sigmoid": said, "neighbors": said}
    case.rows[1] |= {"answers": None, "error_kind": "decode", "error": "x" * 300}
    page = visit(case.write().page, viewport={"width": width, "height": 844})
    for tab in ("labels", "errors", "about"):
        page.click(f"#tab-{tab}")
        page.wait_for_selector(f"#view-{tab} table")
        assert page.evaluate("tab => document.getElementById(`view-${tab}`).scrollWidth", tab) <= width
        assert page.evaluate(BROKEN_WORDS, tab) == (["x" * 300] if tab == "errors" else [])
    assert page.locator("#view-about td[title]").first.get_attribute("title") == "ab" * 32


def test_narrow_screens_have_everything_within_their_width(case, visit):
    page = visit(case.page, viewport={"width": 380, "height": 760})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 380
    assert not page.locator("#filters").is_visible()
    page.click("#filters-toggle")
    option(page, "cat").click()
    wait_found(page, case.selected()[:, 1].sum())
    page.click("#filters-toggle")
    page.click("#cell-0")
    assert page.evaluate("() => document.getElementById('detail').getBoundingClientRect().width") <= 380
    assert page.locator("#detail-confirm").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(case, visit, scheme):
    page = visit(case.page, color_scheme=scheme)
    colours = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const names = ["ink", "soft", "warn", "ok", "accent", "ground", "panel", "fill", "tint", "heat", "on-accent"];
          return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
        }"""
    )

    def light(name):
        parts = [int(colours[name][place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(text, ground) for text in ("ink", "soft", "warn", "ok", "accent") for ground in ("ground", "panel")]
    pairs += [("soft", "fill"), ("ink", "fill"), ("accent", "tint"), ("ink", "heat"), ("on-accent", "accent")]
    for text, ground in pairs:
        low, high = sorted((light(text), light(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{text} on {ground}"


def test_everything_that_can_be_used_has_a_name(case, page):
    page.click("#cell-0")
    bare = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=listbox], [role=img], dialog")]
          .filter((each) => !each.textContent.trim() && !each.ariaLabel && !each.labels?.length
            && !each.getAttribute("aria-labelledby")).map((each) => each.outerHTML)"""
    )
    assert bare == []


def filter_of(page, selector):
    page.wait_for_selector(selector)
    return page.locator(selector).first.evaluate("element => getComputedStyle(element).filter")


def test_blurred_pictures_are_seen_when_they_are_asked_for(tmp_path, visit):
    page = visit(Case(tmp_path, ["a.png", "b.png"]).images().write(show="blurred").page)
    assert "blur" in filter_of(page, ".cell img")
    page.focus("#gallery")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail-picture[src]")
    assert "blur" in filter_of(page, "#detail-picture") and "click the picture" in page.inner_text("#detail-missing")
    page.click("#detail-picture")
    assert filter_of(page, "#detail-picture") == "none"
    page.keyboard.press("ArrowRight")
    wait_text(page, "detail-path", "b.png")
    page.wait_for_selector("#detail-picture[src]:not(.asked)")
    assert "blur" in filter_of(page, "#detail-picture"), "only the one that was asked for"
    page.keyboard.press("Escape")
    page.uncheck("#blur")
    assert filter_of(page, ".cell img") == "none"


def test_a_report_without_pictures_reads_and_links_none(tmp_path, visit):
    case = Case(tmp_path, ["a.png", "b.png"])
    page = visit(case.write(show="none", read=lambda path: pytest.fail(f"{path} was read")).page)
    assert texts(page.locator(".cell .frame")) == ["left out", "left out"]
    page.focus("#gallery")
    page.keyboard.press("Enter")
    wait_text(page, "detail-missing", "made without pictures")
    assert page.locator("#detail-picture").get_attribute("src") is None
    assert not page.is_visible("#blur")


def test_novel_images_come_first_and_promises_stand_beside_labels(tmp_path, visit, monkeypatch):
    classes = {"bird": None, "cat": "9 positives, 42 needed", **dict.fromkeys(CLASSES[2:])}
    promise = {"figure": "precision", "level": 0.9, "confidence": 0.95, "classes": classes}
    monkeypatch.setitem(HEAD, "promise", promise)
    case = Case(tmp_path, [f"{number}.png" for number in range(5)]).images()
    for row, novelty in zip(case.rows, (0.2, None, 1.0, 0.99, 0.5), strict=True):
        row["answers"]["mld"]["novelty"] = novelty
    page = visit(case.write().page)
    page.select_option("#sort", "novel")
    page.wait_for_function("() => document.querySelector('.cell .name')?.textContent === '2.png'")
    order = sorted(page.locator(".cell").all(), key=lambda cell: int(cell.get_attribute("aria-posinset")))
    assert [cell.locator(".name").inner_text() for cell in order] == [f"{n}.png" for n in (2, 3, 4, 0, 1)]
    page.locator("#show label", has_text="Novel").click()
    wait_found(page, 2, total=5)
    page.click("#tab-labels")
    cells = {row.split("\t")[0]: row.split("\t")[3] for row in texts(page.locator("#view-labels table.plain tbody tr"))}
    assert cells["bird"] == "precision of at least 90.0 %" and cells["cat"] == "nothing: 9 positives, 42 needed"
