"""Tables: answers in sentences, and a scikit-learn estimator (loaded when first used, with scikit-learn)."""

from typing import TYPE_CHECKING, Any

from advex.tabular.search import alternatives, counterfactuals
from advex.tabular.sentences import Change, Counterfactual, Counterfactuals

if TYPE_CHECKING:
    from advex.tabular.estimator import RobustClassifier

__all__ = ["Change", "Counterfactual", "Counterfactuals", "RobustClassifier", "alternatives", "counterfactuals"]


def __getattr__(name: str) -> Any:
    if name != "RobustClassifier":
        raise AttributeError(f"module 'advex.tabular' has no attribute '{name}'")
    from advex.tabular.estimator import RobustClassifier

    return RobustClassifier
