import numpy as np
import pytest
from mlclip_bench.heads.results import Results, TestScores

from mlclip.errors import ResultsError

SETTING = {"study": "heads", "data": {"digest": "d"}, "encoder": {"fingerprint": "f"}}


def line(variant="mld", shots=None, seed=0, **more):
    return {"variant": variant, "shots": shots, "seed": seed, "recipe": None, **SETTING, **more}


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "study")


@pytest.fixture
def outcome():
    rng = np.random.default_rng(0)
    return TestScores(rng.random((4, 3), dtype=np.float32), np.full(3, 0.5, np.float32))


def test_lines_and_scores_read_back_as_they_were_written(results, outcome):
    assert results.lines() == []
    written = results.add_run(line(variant="mld, α₁ 0"), outcome)
    read = Results(results.folder)
    assert read.lines() == [written]
    np.testing.assert_array_equal(read.scores(written).scores, outcome.scores)
    np.testing.assert_array_equal(read.scores(written).thresholds, outcome.thresholds)


def test_variants_whose_names_look_alike_keep_their_own_scores(results, outcome):
    first = results.add_run(line(variant="mld, α₁ 0"), outcome)
    results.add_run(line(variant="mld, β₁ 0"), TestScores(outcome.scores + 1, outcome.thresholds))
    np.testing.assert_array_equal(results.scores(first).scores, outcome.scores)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"study": "losses"}, "study"),
        ({"data": {"digest": "other"}}, "data"),
        ({"encoder": {"fingerprint": "other"}}, "encoder"),
    ],
)
def test_a_folder_holds_one_setting_only(results, changed, named):
    results.add_run(line(), None)
    results.check(line())
    with pytest.raises(ResultsError, match=rf"other .*{named}.*--out"):
        results.check(line(**changed))


def test_scores_that_are_gone_or_belong_to_another_run_are_none(results, outcome):
    written = results.add_run(line(), outcome)
    results.add_run(line(), TestScores(outcome.scores + 1, outcome.thresholds))
    assert results.scores(written) is None
    (results.folder / "scores" / written["scores"]["file"]).unlink()
    assert results.scores(written) is None


def test_git_leaves_scores_alone(results, outcome):
    results.add_run(line(), outcome)
    assert (results.folder / "scores" / ".gitignore").read_text() == "*\n"


def test_broken_scores_are_named(results, outcome):
    written = results.add_run(line(), outcome)
    (results.folder / "scores" / written["scores"]["file"]).write_bytes(b"PK not a zip")
    with pytest.raises(ResultsError, match="delete the file"):
        results.scores(written)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, outcome):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        Results(tmp_path / "file").add_run(line(), outcome)
