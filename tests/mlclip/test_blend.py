"""`blend`: the mean of its members' logits, each trained as it would be alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlclip.errors import TrainError
from mlclip.heads import HEADS
from mlclip.heads.blend import MEMBERS
from mlclip.settings import Recipe
from mlclip.training.loop import predict_outputs
from mlclip.training.runs import head_features, train_run


@pytest.mark.parametrize("members", ["sigmoid,neighbornet", ["zeroshot", "tip"]])
def test_logits_are_the_mean_of_heads_trained_alone(members, encoder, dataset, cache, reloaded):
    names = members.split(",") if isinstance(members, str) else members
    test = dataset.split("test")

    def outputs(run):
        return predict_outputs(run.head, head_features(run.head, test, cache))

    run = train_run(dataset, encoder, cache, Recipe("blend", {"members": members}))
    alone = [train_run(dataset, encoder, cache, Recipe(name)) for name in names]
    expected = []
    for member in alone:
        first = outputs(member)
        clipped = first.clip(1e-6, 1 - 1e-6)
        expected.append(first if member.head.outputs[0] == "logits" else np.log(clipped / (1 - clipped)))
    np.testing.assert_allclose(outputs(run), np.mean(expected, axis=0), atol=2e-3)
    assert np.array_equal(outputs(replace(run, head=reloaded(run.head))), outputs(run))


@pytest.mark.parametrize("members", ["sigmoid", "sigmoid,sigmoid", "sigmoid,siglip", ""])
def test_members_that_cannot_be(members, encoder, dataset, cache):
    with pytest.raises(TrainError, match=f"members are two or more of {', '.join(MEMBERS)}"):
        train_run(dataset, encoder, cache, Recipe("blend", {"members": members}))


def test_a_graph_of_both_kinds_of_input(graph_equals):
    shapes = {"embedding": (8,), "tokens": (5, 8)}
    config = {"mld": {"classes": 3, "width": 8}, "sigmoid": {"classes": 3, "width": 8}}
    blend = HEADS["blend"](3, config).eval()
    assert blend.inputs == ("embedding", "tokens")
    graph_equals(blend, lambda batch: tuple(torch.randn(batch, *shapes[name]) for name in blend.inputs))
