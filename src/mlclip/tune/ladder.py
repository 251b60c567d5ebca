"""The ladder of document 001 for the asymmetric losses: one setting after the other instead of a grid.

Huang et al. 2023, "Asymmetric Polynomial Loss for Multi-Label Classification", https://arxiv.org/abs/2304.05361, 2.4
and 3: find gamma_neg with gamma_pos 0, compare gamma_pos 0 with 1, then move alpha1, then alpha2, which gains less;
beta1 above 1 where some positives are unlabelled. What beta1 does there (2.3) holds only for a gradient through the
focus, so that search keeps it, although public code detaches the focus. The values are the document's (gamma_neg 1 to
5; alpha1 0, 1.2 to 1.5, 2 to 3.5); for alpha2 it names only 3, for beta1 only 1.4, and the values around them are ours.
"""

from mlclip.errors import TrainError
from mlclip.heads import HEADS, Head
from mlclip.settings import Recipe
from mlclip.tune.study import Study

START = {"gamma_neg": 4.0, "gamma_pos": 0.0, "shift": 0.05, "alpha1": 1.0, "alpha2": 0.5, "beta1": 1.0}
ASL_RUNGS: dict[str, tuple[float, ...]] = {"gamma_neg": (4.0, 1.0, 2.0, 3.0, 5.0), "gamma_pos": (0.0, 1.0)}
APL_RUNGS: dict[str, tuple[float, ...]] = {
    "alpha1": (1.0, 0.0, 1.2, 1.3, 1.4, 1.5, 2.0, 2.5, 3.0, 3.5),
    "alpha2": (0.5, 1.0, 2.0, 3.0, 4.0),
}
UNLABELLED_RUNG: dict[str, tuple[float, ...]] = {"beta1": (1.0, 1.2, 1.4, 1.6)}


def rungs(recipe: Recipe, unlabelled: bool) -> dict[str, tuple[float, ...]]:
    """What is tried, in order; the first value of each rung is where the ladder starts on it.

    `asl` has the first two rungs. Any other loss becomes `apl`, of which `bce`, `focal` and `asl` are special cases.
    Where some positives are `unlabelled`, `asl` does too, and `beta1` moves. Raises TrainError for heads without one of
    these losses.
    """
    head, training = HEADS[recipe.head], recipe.training or HEADS[recipe.head].defaults
    if head.loss is not Head.loss or not training.epochs:
        raise TrainError(f"the ladder tunes the loss, and `{recipe.head}` has its own or none: use --search bayes")
    if training.loss == "asl" and not unlabelled:
        return ASL_RUNGS
    return ASL_RUNGS | APL_RUNGS | (UNLABELLED_RUNG if unlabelled else {})


def climb(study: Study, recipe: Recipe, limit: int, unlabelled: bool) -> None:
    """Make the trials of the ladder, at most `limit`; a value replaces the first only if it scores higher."""
    order = rungs(recipe, unlabelled)
    loss = "asl" if order is ASL_RUNGS else "apl"
    kept = {name: value for name, value in START.items() if loss == "apl" or name in (*ASL_RUNGS, "shift")}
    kept |= {"detach_focus": False} if unlabelled else {}
    for name, values in order.items():
        trials = []
        for value in values:
            settings = {"training.loss": loss, "training.loss_options": kept | {name: value}}
            known = study.known(settings)
            if known is None and len(study.trials) >= limit:
                return
            trials.append(((known or study.measure(settings)).score, value))
        kept[name] = max(trials, key=lambda pair: pair[0])[1]
