"""Texts: which file names them, which requests carry them."""

from pathlib import Path

import pytest
from mlclip_client import Captioned
from mlclip_client.inputs.item import Item
from mlclip_client.inputs.texts import Texts
from mlclip_client.server.transport import finish
from tritonclient.grpc import model_config_pb2 as pb

from .scripted import Scripted, session


def sent(tiny, heads, item):
    """What a client sends for an image, where `grid` reads texts and `color` does not."""
    configs = tiny.configs()
    for name in ("grid", "grid_bytes", "heads_tiny", "heads_tiny_bytes"):
        text = pb.ModelInput(name="text", data_type=pb.TYPE_STRING, dims=[1], optional=True)
        configs[name].input.insert(0, text)
    transport = Scripted(configs)
    finish(session(transport, heads).attempt(item))
    return transport.sent[0]


def test_a_text_goes_to_heads_that_read_it(tiny):
    text = b"\x04\x00\x00\x00\xc3\xa9 x"
    assert sent(tiny, ("grid",), Captioned(b"i", "é x")) == {"image": b"\x01\x00\x00\x00i", "text": text}
    assert sent(tiny, ("color", "grid"), Captioned(b"i", "é x"))["text"] == text


def test_other_heads_and_images_without_a_text_send_none(tiny):
    assert sent(tiny, ("color",), Captioned(b"i", "x")).keys() == {"image"}
    assert sent(tiny, ("grid",), Captioned(b"i", None)).keys() == {"image"}
    assert sent(tiny, ("grid",), b"i").keys() == {"image"}


def test_a_text_that_is_no_unicode_is_sent_with_replacements(tiny):
    assert sent(tiny, ("grid",), Captioned(b"i", "a\udcff"))["text"].endswith(b"a?")


def write(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'id,path,text\n1,a.png,"Bär, groß"\n2,sub/b.png,\n'),
        ("t.jsonl", '{"path": "a.png", "text": "Bär, groß", "labels": []}\n\n{"path": "sub/b.png"}\n'),
    ],
)
def test_paths_start_from_the_files_folder(tmp_path, monkeypatch, name, content):
    texts = Texts(write(tmp_path, name, content))
    monkeypatch.chdir(tmp_path)
    images = [Path("a.png"), tmp_path / "a.png", Path("sub/b.png"), Path("sub/../a.png"), Path("c.png")]
    items = [Item(str(image), "file", str(image)) for image in images]
    assert [item.text for item in texts.join(items)] == ["Bär, groß", "Bär, groß", None, "Bär, groß", None]
    assert (texts.used, len(texts)) == (3, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "", "texts come as .csv or .jsonl"),
        ("t.csv", "path,title\na,b\n", "the first line must name the columns `path` and `text`"),
        ("t.csv", 'path,text\na,"b\n', "t.csv:2: broken CSV in line 2: unexpected end"),
        ("t.csv", "text,path\nb\n", "t.csv:2: no path"),
        ("t.csv", "path,text\na,Bär\nb,Bär, groß\n", "t.csv:3: more values than columns: quote what holds a comma"),
        ("t.csv", "path,text,text\na,b,c\n", "t.csv:1: 2 columns are called text: rename all but one"),
        ("t.csv", "path,text\na,b\n./a,b\n./a,c\n", "t.csv:4: an earlier line has another text for ./a: remove one"),
        ("t.jsonl", "[" * 100_000, "t.jsonl:1: not JSON"),
        ("t.jsonl", '{"path": "a"}\n{', "t.jsonl:2: not JSON"),
        ("t.jsonl", "[]\n", "t.jsonl:1: not a JSON object"),
        ("t.jsonl", '{"text": "a"}\n', "t.jsonl:1: no path"),
        ("t.jsonl", '{"path": "a", "text": 3}\n', "t.jsonl:1: the text must be a string, not 3"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        Texts(write(tmp_path, name, content))


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path,text\na,\xff\n")
    with pytest.raises(ValueError, match="t.csv: not UTF-8"):
        Texts(tmp_path / "t.csv")
