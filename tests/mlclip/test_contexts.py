"""Contexts, weights and translations: what files and options say, and the embeddings that come of it."""

import json

import numpy as np
import pytest
import torch

from mlclip.errors import DataError
from mlclip.heads.contexts import read_contexts, read_translations, split_language
from mlclip.heads.wording import Wording

LABELS = ("dog", "playing card", "tree")
GERMAN = {"dog": "Hund", "tree": "Baum"}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def fake_encode(texts):
    """A vector for each text, L2-normalised, that depends on every letter."""
    rows = [np.sin(np.arange(1, 6) * sum((n + 1) * ord(letter) for n, letter in enumerate(text))) for text in texts]
    return torch.nn.functional.normalize(torch.tensor(np.array(rows)), dim=-1).float()


def test_a_file_gives_contexts_with_weights_and_leaves_out_comments(tmp_path):
    path = write(
        tmp_path / "c.txt", "\ufeff# for pictures\n\na photo of a {}\n  a drawing of a {}\t12.57\n[de] ein {}\t 0\n"
    )
    assert read_contexts(path) == [("a photo of a {}", 100.0), ("a drawing of a {}", 12.57), ("[de] ein {}", 0.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [("# nothing\n", "holds no context"), ("a {}\n\na photo of {}\tmuch\n", r"c.txt:3: 'much' is not a weight")],
)
def test_a_contexts_file_that_cannot_be_used_says_where(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_contexts(write(tmp_path / "c.txt", content))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none.txt"):
        Wording.read(str(tmp_path / "none.txt"))
    (tmp_path / "latin.txt").write_bytes("Übung {}\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read .*latin.txt"):
        read_contexts(tmp_path / "latin.txt")


def test_translations_are_called_by_their_file_or_by_what_is_inside(tmp_path):
    german = write(tmp_path / "de.json", GERMAN)
    others = write(tmp_path / "others.json", {"no": {"dog": "hund"}, "fr": {"dog": "chien"}})
    assert read_translations([german, others]) == {"de": GERMAN, "no": {"dog": "hund"}, "fr": {"dog": "chien"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "write a JSON object"),
        ("{}", "write a JSON object"),
        ("{nonsense", "holds no translations"),
        ('{"dog": "Hund", "dog": "Köter"}', "the key 'dog' is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"dog": ""}', "wants one word"),
        ('{"dog": ["Hund"]}', "wants one word"),
        ('{"dog": "Hund", "no": {"dog": "hund"}}', "wants one word"),
    ],
)
def test_translations_that_cannot_be_used_are_refused(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_translations([write(tmp_path / "de.json", content)])


def test_a_language_is_given_by_one_file_only(tmp_path):
    german = write(tmp_path / "de.json", GERMAN)
    with pytest.raises(DataError, match="'de' was given before"):
        read_translations([german, german])


def test_a_language_stands_in_front_of_its_context():
    assert split_language("[de] ein Foto von {}") == ("de", "ein Foto von {}")
    assert split_language("a photo [old] of {}") == (None, "a photo [old] of {}")


def test_labels_are_put_into_contexts_as_they_are():
    wording = Wording.read(["a photo of a {}", "{}"])
    assert wording.texts(LABELS) == [["a photo of a dog", "a photo of a playing card", "a photo of a tree"], [*LABELS]]
    assert Wording.read("a {}").texts(("{x}",)) == [["a {x}"]]
    assert Wording.read().texts(("dog",)) == [["a photo of a dog"]]


def test_one_translation_takes_the_labels_place_and_missing_words_stay(tmp_path):
    wording = Wording.read("a {}", translations=str(write(tmp_path / "de.json", GERMAN)))
    assert wording.contexts == ("[de] a {}",)
    assert wording.texts(LABELS) == [["a Hund", "a playing card", "a Baum"]]
    assert wording.facts(LABELS) == {"untranslated_labels": {"de": 1}}


def test_languages_stand_side_by_side_each_context_in_its_own_or_in_all():
    words = {"de": GERMAN, "no": {"dog": "hund"}}
    wording = Wording.read(["{}!", "[de] ein {}", "[labels] a {}"], translations=words, keep_labels=True)
    assert wording.contexts == ("[labels] {}!", "[de] {}!", "[no] {}!", "[de] ein {}", "[labels] a {}")
    assert wording.texts(("dog",)) == [["dog!"], ["Hund!"], ["hund!"], ["ein Hund"], ["a dog"]]


def test_what_a_wording_came_to_can_be_read_again():
    wording = Wording.read(["{}", "[no] et {}"], [3, 4, 5], {"de": GERMAN, "no": {"dog": "hund"}})
    plain = json.loads(json.dumps(wording.config))
    assert Wording.read(**plain) == wording


def test_a_files_weights_count_unless_a_list_is_given(tmp_path):
    path = write(tmp_path / "c.txt", "{}\t7\na {}\n")
    assert Wording.read(path).weights == (7, 100)
    assert Wording.read(["{}\t7", "a {}"]) == Wording.read(path)
    assert Wording.read(path, [1, 2]).weights == (1, 2)
    assert Wording.read(path, translations={"de": GERMAN, "no": GERMAN}).weights == (7, 7, 100, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": []}, "there is no context"),
        ({"contexts": ["a photo"]}, "needs one {}"),
        ({"contexts": ["{} and {}"]}, "needs one {}"),
        ({"contexts": [1]}, "contexts are texts"),
        ({"contexts": 3}, "contexts are texts"),
        ({"contexts": ["a {}\tmuch"]}, "'much' is not a weight"),
        ({"contexts": ["a {}", "a {}"]}, "given twice"),
        ({"contexts": ["[de] ein {}"]}, "asks for 'de', which has no translations"),
        (
            {"contexts": ["[no] et {}"], "translations": {"no": {}, "de": {}}},
            r"no context uses the translations \['de'\]",
        ),
        ({"translations": {"a b": {}}}, "cannot name a language"),
        ({"translations": {"labels": {}}}, "cannot name a language"),
        ({"translations": {"dog": "Hund"}}, "map language to label to word"),
        ({"translations": {"de": {"dog": 1}}}, "map language to label to word"),
        ({"weights": [0]}, "all weights are 0"),
        ({"weights": [-1]}, "between 0 and 100"),
        ({"weights": [101]}, "between 0 and 100"),
        ({"weights": [float("nan")]}, "between 0 and 100"),
        ({"weights": [1, 2]}, "2 weights for 1 contexts"),
        ({"weights": "1"}, "a list of numbers"),
        ({"weights": 1}, "a list of numbers"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Wording.read(**options)


def test_translations_that_know_no_label_are_refused():
    with pytest.raises(ValueError, match="'de' hold none of the labels, such as 'Dog'"):
        Wording.read(translations={"de": GERMAN}).facts(("Dog", "Tree"))


def test_only_the_ratio_of_weights_counts_and_a_weight_of_0_is_no_context():
    some = Wording.read(["{}", "a {}", "the {}"], [1, 2, 0]).embed(LABELS, fake_encode)
    torch.testing.assert_close(Wording.read(["{}", "a {}"], [50, 100]).embed(LABELS, fake_encode), some)


def test_many_labels_are_embedded_a_part_at_a_time():
    labels, sizes = [f"label {n}" for n in range(600)], []

    def encode(texts):
        sizes.append(len(texts))
        return fake_encode(texts)

    embedded = Wording.read("{}").embed(labels, encode)
    torch.testing.assert_close(embedded, fake_encode(labels))
    assert max(sizes) < 300
