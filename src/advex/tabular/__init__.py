"""Tables: answers in sentences, and a scikit-learn estimator (loaded when first used, with scikit-learn)."""

from typing import TYPE_CHECKING, Any

from advex.tabular.search import alternatives as alternatives
from advex.tabular.search import counterfactuals as counterfactuals
from advex.tabular.sentences import Change as Change
from advex.tabular.sentences import Counterfactual as Counterfactual
from advex.tabular.sentences import Counterfactuals as Counterfactuals

if TYPE_CHECKING:
    from advex.tabular.estimator import RobustClassifier as RobustClassifier


def __getattr__(name: str) -> Any:
    if name != "RobustClassifier":
        raise AttributeError(f"module 'advex.tabular' has no attribute '{name}'")
    from advex.tabular.estimator import RobustClassifier

    return RobustClassifier
