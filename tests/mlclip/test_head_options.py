"""Options that do not fit a head are refused by a message that names what would fit."""

import math
from dataclasses import replace

import pytest

from mlclip.heads import FeatureShapes, build_head

SHAPES = FeatureShapes(embedding_width=8, token_count=5, token_width=16, text_token_count=7, text_token_width=4)


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("neighbors", {"max_neighbors": 0}, "max_neighbors must be a whole number of at least 1, not 0"),
        ("neighbors", {"max_neighbors": 2.5}, "whole number"),
        ("neighbors", {"temperature": -1}, "must not be below 0"),
        ("neighbors", {"max_difference": -0.1}, "must not be below 0"),
        ("neighbors", {"stop_weight": 0.0}, "stop_weight must be above 0 and at most 1"),
        ("neighbors", {"index": "tree"}, "index must be one of hnsw, ivf, not 'tree'"),
        ("neighbornet", {"temperature": 0}, "temperature must be above 0 and finite"),
        ("neighbornet", {"temperature": math.inf}, "temperature must be above 0 and finite"),
        ("neighbornet", {"grouping": "nearest"}, "grouping must be one of"),
        ("classnet", {"temperature": -1}, "temperature must be at least 0 and finite"),
        ("classnet", {"temperature": math.inf}, "temperature must be at least 0 and finite"),
        ("mld", {"attention_heads": 3}, "3 attention heads do not divide"),
        ("mld", {"memory": "all"}, "memory must be one of tokens, pooled"),
        ("fusion", {"mode": "mean"}, "mode must be one of concat, sum, product, gated, attention, not 'mean'"),
        ("fusion", {"head": "cnn"}, "head must be one of linear, mlp, gmlp, not 'cnn'"),
        ("fusion", {"head": "gmlp", "hidden": 7}, "even for gmlp, not 7"),
        ("fusion", {"text_dropout": 1.0}, "text_dropout must be at least 0 and below 1"),
        ("fusion", {"mode": "attention", "attention_heads": 3}, "must divide the embedding's width 8"),
        ("powerset", {"decode": "best"}, "marginals, winner"),
        ("powerset", {"ratio": 1.5}, "between 0 and 1"),
        ("siglip", {"scale": 0.0}, "scale must be above 0 and text_batch at least 1"),
        ("siglip", {"text_batch": 0}, "scale must be above 0 and text_batch at least 1"),
        ("tip", {"alpha": -1}, "must be 0 or above"),
        ("tip", {"beta": -1}, "must be 0 or above"),
        ("tip", {"alpha": math.inf}, "must be 0 or above"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(head, options, message):
    with pytest.raises(ValueError, match=message):
        build_head(head, 4, SHAPES, **options)


def test_an_encoder_that_lacks_what_a_head_reads_is_refused():
    with pytest.raises(ValueError, match="use another --mode"):
        build_head("fusion", 4, replace(SHAPES, text_token_count=0), mode="attention")
