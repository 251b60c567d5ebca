"""Named recipes: each builds its head, says where it comes from, and holds the documents' numbers."""

import pytest
import torch

from mlclip.console import console
from mlclip.errors import TrainError
from mlclip.heads import HEADS, FeatureShapes, build_head
from mlclip.losses import LOSSES
from mlclip.presets import DOCUMENTS, RECIPES, find_recipe
from mlclip.settings import ThresholdConfig

SHAPES = FeatureShapes(embedding_width=16, token_count=5, token_width=8, text_token_count=4, text_token_width=12)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_its_head(name):
    recipe = RECIPES[name].recipe
    head = build_head(recipe.head, 20, SHAPES, **recipe.options)
    assert head.name == recipe.head
    config = head.config | {"contexts": recipe.options.get("contexts")}  # its weights are split off
    assert recipe.options.items() <= config.items(), "an option went elsewhere"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_loss_takes_its_options(name):
    training = RECIPES[name].recipe.training or HEADS[RECIPES[name].recipe.head].defaults
    loss = LOSSES[training.loss](torch.randn(4, 3), torch.ones(4, 3), **training.loss_options)
    assert loss.isfinite()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_source_and_command(name):
    recipe = RECIPES[name]
    assert recipe.name == name and recipe.section in recipe.source and len(recipe.source) > 40


def test_every_document_and_every_head_of_theirs_has_recipes():
    assert {name[:3] for name in RECIPES} == {"000", "001", "002", "003"}
    assert {recipe.recipe.head for recipe in RECIPES.values()} == HEADS.keys() - {"blend"}


def test_the_documents_numbers_stand_as_printed():
    def training(name):
        return RECIPES[name].recipe.training

    mld = RECIPES["000-mld"].recipe
    printed = {"attention_heads": 4, "dropout": 0.5, "groups": 8, "layers": 2}
    assert mld.options == printed | {"decoder_width": 768, "hidden": 2048}, "the paper's sizes, not our defaults"
    assert (training("000-mld").lr, training("000-siglip").lr, training("000-siglip").epochs) == (1e-4, 5e-5, 80)
    assert (training("000-sigmoid").lr, training("000-sigmoid").epochs) == (1e-3, 50)
    assert (training("000-powerset").lr, training("000-powerset").epochs) == (1e-3, 10)
    coco, wide, text = (training(f"001-apl-{name}").loss_options for name in ("coco", "nuswide", "text"))
    assert (coco["alpha1"], coco["alpha2"], wide["alpha1"], text["alpha1"], text["gamma_neg"]) == (0, 3, 1.3, 2.5, 3)
    assert training("001-asl").loss_options == {"gamma_pos": 0, "gamma_neg": 4, "shift": 0.05}
    assert training("001-asl-text").loss_options["gamma_neg"] == 3
    named = ("gamma_pos", "gamma_neg", "alpha1", "beta1")
    focus, docred, beta = (training(f"001-apl-{name}").loss_options for name in ("coco-focus", "docred", "text-beta"))
    assert [focus.get(name) for name in named] == [1, 4, 2.5, None]
    assert [docred.get(name) for name in named] == [1, 4, 1.4, None]
    assert [beta.get(name) for name in named] == [0, 3, None, 1.4]
    assert RECIPES["000-powerset"].recipe.options["decode"] == "winner"
    assert "decode" not in RECIPES["000-powerset-marginals"].recipe.options
    assert RECIPES["000-siglip"].command.endswith("000-siglip --encoder ViT-B-16-SigLIP --pretrained webli")
    assert RECIPES["003-fusion-gmlp"].recipe.options["head"] == "gmlp"
    neighbors = RECIPES["002-neighbors"].recipe
    assert neighbors.options == {
        "temperature": 68.566,
        "max_difference": 5.2568,
        "max_neighbors": 36,
        "stop_weight": 0.99,
    }


@pytest.mark.parametrize(
    ("name", "prototypes", "temperature", "lr", "momentum", "batch_size", "epochs"),
    [
        ("neighbornet", None, 105.60, 0.000016878, 0.10277, 319, 6),
        ("neighbornet-kmeans", 16, 43.653, 9.8052, 0.36597, 33, 12),
        ("classnet-kmeans", 16, 4.9755, 100, 0.90390, 64, 63),
        ("classnet-random", 16, 1, 52.2653, 0.99, 64, 100),
    ],
)
def test_table_4_4_of_document_002_stands_as_printed(name, prototypes, temperature, lr, momentum, batch_size, epochs):
    recipe = RECIPES[f"002-{name}"].recipe
    training = recipe.training
    assert (recipe.options["prototypes"], recipe.options["temperature"]) == (prototypes, temperature)
    assert (training.lr, training.momentum, training.batch_size, training.epochs) == (lr, momentum, batch_size, epochs)
    assert (training.optimizer, training.schedule, recipe.options["fine_tune"]) == ("sgd", "cosine", True)
    assert training.keep == "last", "no other epoch is mentioned"


def test_many_prototypes_are_a_row_of_table_4_4():
    options = RECIPES["002-neighbornet-kmeans-4241-untuned"].recipe.options
    assert (options["prototypes"], options["temperature"], options["labels"]) == (4241, 102.13, "averaged")


def test_document_002_has_one_threshold_of_the_best_f2():
    thresholds = {recipe.recipe.thresholds for name, recipe in RECIPES.items() if name.startswith("002")}
    assert thresholds == {ThresholdConfig("global", beta=2.0)}


def test_the_contexts_of_document_002_carry_their_weights_and_can_be_replaced():
    options = RECIPES["002-zeroshot"].recipe.options
    config = build_head("zeroshot", 20, SHAPES, **options).config
    weights = dict(zip(config["contexts"], config["weights"], strict=True))
    assert (weights["a drawing of a {}"], weights["a military photo of a {}"], weights["a photo of a {}"]) == (
        100,
        12.57,
        0,
    )
    assert len(weights) == 14
    other = (RECIPES[f"002-zeroshot-{name}"].recipe.options for name in ("original", "automatic"))
    original, automatic = (build_head("zeroshot", 20, SHAPES, **options).config for options in other)
    assert len(original["contexts"]) == 28 and sum(original["weights"]) == pytest.approx(904.03)
    assert automatic["weights"] == [0, 0, 0, 100, 100, 100, 0, 0, 0, 100, 100, 100, 0, 0]
    assert build_head("zeroshot", 20, SHAPES, **{**options, "contexts": ["one {}"]}).config["weights"] == [100]


def test_the_pooled_variant_reads_the_embedding():
    recipe = find_recipe("000-mld-pooled").recipe
    assert build_head(recipe.head, 20, SHAPES, **recipe.options).inputs == ("embedding",)


def test_an_unknown_recipe_is_met_with_the_nearest():
    with pytest.raises(TrainError, match="no recipe is called '000-mdl': did you mean '000-mld'"):
        find_recipe("000-mdl")
    with pytest.raises(TrainError, match="`mlclip recipes` lists them"):
        find_recipe("zzz")


@pytest.mark.parametrize("command", ["heads", "recipes"])
def test_sources_settings_and_defaults_are_printed_for_all(command, mlclip):
    for name in HEADS if command == "heads" else RECIPES:
        code, told, _ = mlclip(command, name)
        assert code == 0 and any(title in told for title in (*DOCUMENTS.values(), "Kittler et al. 1998")), name
        assert "raining:\n" in told and "  epochs  " in told, name
    assert mlclip(command, "nothing")[0] == 1


def test_a_head_tells_its_options_and_what_a_search_varies(mlclip):
    told = mlclip("heads", "neighbors")[1]
    assert "  max_neighbors  36\n" in told and "  temperature  1 to 200, logarithmic\n" in told
    assert "  recall  " not in told, "nobody sets it"
    assert "  scale  None\n" in mlclip("heads", "sigmoid")[1], "as its docstring explains, not what follows from it"
    assert "    a photo of a {}\n" in mlclip("heads", "zeroshot")[1]


def test_the_list_of_recipes_fits_a_narrow_terminal(mlclip, monkeypatch):
    monkeypatch.setattr(console, "width", 80)
    lines = mlclip("recipes")[1].splitlines()
    rows = [line.split() for line in lines]
    for name, recipe in RECIPES.items():
        assert [name, recipe.recipe.head, *recipe.section.split()] in rows, "wrapped"
