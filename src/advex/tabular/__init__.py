"""Tables: answers in sentences, and a scikit-learn estimator."""

from advex.tabular.answers import alternatives as alternatives
from advex.tabular.answers import answer as answer
from advex.tabular.estimator import RobustClassifier as RobustClassifier
from advex.tabular.sentences import Answer as Answer
from advex.tabular.sentences import Change as Change
from advex.tabular.sentences import Counterfactual as Counterfactual
