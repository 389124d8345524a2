"""Training that goes on from weights that are there."""

from __future__ import annotations

from advex.artifacts import load
from advex.classifier import Classifier
from advex.errors import SpecError


def begin_from(classifier: Classifier, source: str) -> None:
    """Give a classifier's network the weights of a saved one: a run folder, or `builtin:NAME`.

    Where the classes are others, values of which there is one for each class (those of the head) stay as they are.
    Raises ArtifactError for what is not a saved classifier, SpecError where the networks do not have the same values.
    """
    other = load(source)
    theirs, mine = other.network.state_dict(), classifier.network.state_dict()
    many = len(other.class_names or ()), len(classifier.class_names or ())
    if many[0] != many[1]:
        heads = {
            name for name, value in theirs.items()
            if name in mine and value.ndim and value.shape != mine[name].shape
            and (len(value), len(mine[name])) == many and value.shape[1:] == mine[name].shape[1:]
        }  # fmt: skip
        theirs = {name: mine[name] if name in heads else value for name, value in theirs.items()}
    if {name: value.shape for name, value in theirs.items()} != {name: value.shape for name, value in mine.items()}:
        raise SpecError(
            f"start={source}: its network, {other.spec}, does not match the network being trained. Use the "
            "same network in the recipe, or omit start."
        )
    classifier.network.load_state_dict(theirs)
