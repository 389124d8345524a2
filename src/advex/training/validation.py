"""Looking at a classifier between epochs."""

from __future__ import annotations

from advex import attacks
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.goals import Misclassify
from advex.training.run import Run


def accuracy(classifier: Classifier, data: Dataset, batch_size: int = 512) -> float:
    """Share of right decisions on a data set."""
    right = 0
    for batch in data.batches(batch_size, classifier.device):
        right += int((classifier.predict(batch.x).argmax(dim=1) == batch.y).sum())
    return right / max(len(data), 1)


def robust_accuracy(classifier: Classifier, data: Dataset, attack: str, samples: int, batch_size: int = 128) -> float:
    """Share of `samples` examples, always the same ones, whose decision is right and stays so under a search.

    attack: its spec string. A quick look, not a claim: a stronger search finds a lower number.
    """
    search, stands = attacks.build(attack), 0
    shown = data.sample(samples, seed=0)  # at random: files often come sorted by class
    for batch in shown.batches(batch_size, classifier.device):
        attacked = search(classifier, batch.x, Misclassify(batch.y), seed=0)
        stands += int((~attacked.reached).sum())
    return stands / max(len(shown), 1)


def look(run: Run, validation: Dataset, *, clean: bool, robust: bool) -> dict[str, float]:
    """What is asked of a run's network between epochs: `accuracy` and `robust_accuracy`, where they are wanted."""
    recipe, figures = run.recipe, dict[str, float]()
    with run.classifier.accelerated():  # in its own precision, whatever it is trained in
        if clean:
            figures["accuracy"] = accuracy(run.result, validation, run.piece)
        if robust:
            figures["robust_accuracy"] = robust_accuracy(
                run.result, validation, recipe.robust_attack, recipe.robust_samples, run.piece
            )
    return figures


def due(run: Run, every: int, epoch: int) -> bool:
    """Whether what is done every so many epochs (0: never), and after the last, is done after this one."""
    return every > 0 and (epoch % every == 0 or epoch == run.recipe.epochs)
