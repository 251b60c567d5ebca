"""What is timed is what is meant: graphs equal torch, the reference equals torch's own decoder layer."""

import json

import numpy as np
import pytest
import torch
from mlclip_bench.scaling import graphs
from mlclip_bench.scaling.build import build, estimate, example, shapes_of
from mlclip_bench.scaling.cases import CLAIMED_SETS, ENCODER, HEADS_BY_DEFAULT, SELF_ATTENTION, Case, claim, plan
from mlclip_bench.scaling.label_sets import at_classes, count_sets, shipped_counts, widest
from mlclip_bench.scaling.reference import SelfAttentionLayer
from torch import nn

from mlclip.data import Dataset, Item
from mlclip.errors import ExportError, ResultsError
from mlclip.heads import HEADS
from mlclip.heads.decoder import DecoderLayer

CASES = [
    Case(ENCODER),
    Case("sigmoid", 6),
    Case("mld", 6, groups=2),
    Case(SELF_ATTENTION, 6),
    Case("powerset", 6, rows=9),
    Case("zeroshot", 6),
    Case("neighbornet", 6, rows=40),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_every_kind_of_graph_is_exported_and_equals_torch(case, encoder, tmp_path):
    shapes = shapes_of(encoder)
    graph = graphs.write_graph(case, estimate(case, shapes, encoder), shapes, encoder, tmp_path)
    assert graph["difference"] < 1e-5
    assert graph["file_bytes"] > 4 * graph["parameters"] * 0.9 or case.kind == "neighbornet"
    assert graph["flops"] > 0


def test_a_graph_that_computes_something_else_is_refused(encoder, tmp_path, monkeypatch):
    other = build(Case("sigmoid", 6), shapes_of(encoder))
    with torch.no_grad():
        other.get_parameter(next(name for name, _ in other.named_parameters())).add_(1)
    write = graphs.write_head
    monkeypatch.setattr(graphs, "write_head", lambda head, features, folder: write(other, features, folder))
    case, shapes = Case("sigmoid", 6), shapes_of(encoder)
    with pytest.raises(ExportError, match="differs from torch"):
        graphs.write_graph(case, estimate(case, shapes, encoder), shapes, encoder, tmp_path)


def test_an_estimate_is_what_arithmetic_says(encoder):
    shapes = shapes_of(encoder)
    found = estimate(Case("sigmoid", 10), shapes, encoder)
    width = shapes.embedding_width
    assert found.parameters == 10 * width + 10
    assert found.flops == 2 * 10 * width
    one, four = (estimate(Case(SELF_ATTENTION, n), shapes, encoder).flops for n in (100, 400))
    plain, more = (estimate(Case("mld", n, groups=n), shapes, encoder).flops for n in (100, 400))
    assert four - 4 * one > more - 4 * plain, "only self-attention grows with the square"


def test_the_reference_is_torchs_own_decoder_layer():
    torch.manual_seed(0)
    ours = SelfAttentionLayer(DecoderLayer(16, 4, 32, 0.1)).double().eval()
    theirs = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True).double().eval()
    inner = ours.layer
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.project.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.project.bias)
        theirs.self_attn.out_proj.load_state_dict(ours.out.state_dict())
        theirs.multihead_attn.in_proj_weight.copy_(torch.cat([inner.query.weight, inner.key_value.weight]))
        theirs.multihead_attn.in_proj_bias.copy_(torch.cat([inner.query.bias, inner.key_value.bias]))
        theirs.multihead_attn.out_proj.load_state_dict(inner.out.state_dict())
        theirs.linear1.load_state_dict(inner.up.state_dict())
        theirs.linear2.load_state_dict(inner.down.state_dict())
        target, memory = torch.randn(3, 7, 16).double(), torch.randn(3, 5, 16).double()
        torch.testing.assert_close(ours(target, memory), theirs(target, memory), atol=1e-12, rtol=0)


def test_groups_are_never_more_than_classes_and_powersets_need_counts():
    series, skipped = plan((46, 80, 10_000), (8, 100, None), HEADS_BY_DEFAULT, {46: 197, 80: 371}, 1000)
    groups = {one.title: [case.groups for case in one.cases] for one in series if one.title.startswith("mld")}
    assert groups == {"mld, K = 8": [8, 8, 8], "mld, K = 100": [46, 80, 100], "mld, K = N": [46, 80, 10_000]}
    rows = {one.title: [case.rows for case in one.cases] for one in series if one.title.startswith("powerset")}
    assert list(rows.values()) == [[197, 371], [CLAIMED_SETS[80]]]
    assert [(one.title, one.classes) for one in skipped] == [("powerset", 10_000)]


@pytest.mark.parametrize(("head", "message"), [("siglip", "its own encoder"), ("mdl", "unknown head 'mdl'")])
def test_what_is_no_head_over_features_is_refused(head, message):
    with pytest.raises(ResultsError, match=message):
        plan((4,), (8,), (head,), {}, 1000)


def test_every_other_head_has_a_place_in_a_plan(encoder):
    heads = [name for name in HEADS if name != "siglip"]
    series, _ = plan((6,), (2,), heads, {6: 5}, 40)
    for one in series:
        head = build(one.cases[0], shapes_of(encoder))
        given = example(one.cases[0], head, shapes_of(encoder), 3, encoder)
        with torch.no_grad():
            found = head(*given)
        assert (found[0] if isinstance(found, tuple) else found).shape == (3, 6), one.title


def test_only_what_the_study_claims_is_called_claimed():
    heads = ("sigmoid", "mld", SELF_ATTENTION, "powerset", "knn1", "tip", "zeroshot")
    series, _ = plan((8,), (4, None), heads, {8: 5}, 9)
    assert {one.title: claim(one.title) for one in series} == {
        "sigmoid": "O(N)",
        "mld, K = 4": "O(K)",
        "mld, K = N": "O(N)",
        "decoder with self-attention, K = N": "O(N²)",
        "powerset, label sets of real data": "O(N!) worst, O(N) best",
        "knn1, 9 references": "",
        "tip, 9 references": "",
        "zeroshot": "",
    }


def test_label_sets_are_counted_over_the_most_frequent_labels(tmp_path):
    rows = [("a",), ("a", "b"), ("a", "b"), ("b", "c"), ("c", "a"), ()]
    items = tuple(Item(tmp_path / f"{number}.png", labels) for number, labels in enumerate(rows))
    dataset = Dataset(items, ("a", "b", "c"))
    assert count_sets(dataset, (1, 2, 3, 4)) == {1: 2, 2: 4, 3: 5}


def test_counts_lie_between_those_of_the_neighbouring_sizes():
    counted = {46: 200, 1000: 1200}
    assert at_classes(counted, (10, 46, 215, 1000, 2000)) == {
        46: 200, 215: round(float(np.exp(np.interp(np.log(215), np.log([46, 1000]), np.log([200, 1200]))))), 1000: 1200,
    }  # fmt: skip


def test_the_shipped_counts_say_where_they_come_from():
    counts = shipped_counts()
    assert {"counted", "commit", "time", "data"} <= counts.keys()
    name, sets = widest(counts)
    assert list(sets.values()) == sorted(sets.values())
    assert counts["data"][name]["labels"] >= max(sets)
    assert json.dumps(counts)
