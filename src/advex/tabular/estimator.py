"""A classifier for people who live in scikit-learn: trained to withstand small changes, and able to say why."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from advex import attacks
from advex.data.dataset import Dataset
from advex.errors import InputError
from advex.features import Feature, FeatureSpec
from advex.geometry import as_radius
from advex.goals import Misclassify
from advex.measures.intervals import share_score
from advex.tabular.search import counterfactuals
from advex.tabular.sentences import Counterfactuals
from advex.training import Recipe, recipe_from, train
from advex.types import Score

_TRAINING_STEPS, _TESTING_STEPS = 7, 40  # gradients of the attack that is trained on, and of the one that judges
_ROWS = 4096  # that are attacked at once


class RobustClassifier(ClassifierMixin, BaseEstimator):  # what scikit-learn wants to be inherited
    """A network trained on the worst change of each row within `epsilon` (adversarial training).

    network: spec of a network, e.g. "linear" or "mlp:widths=64-64" (see `advex list network`). epsilon: how far each
    column may be changed in training, in standard deviations of it; 0 is ordinary training. objective: terms as in a
    recipe instead, e.g. {"natural": {}, "l1": {"strength": 0.01}}. epochs, batch_size, learning_rate, weight_decay:
    of Adam. random_state: of the initial weights and the order of the rows. device: where it is trained.

    Columns are numbers (encode categories first). A value outside the range seen in training counts as the end of
    that range; a column that is constant in training counts for nothing.

    After `fit`: `classes_`; `n_features_in_`, `feature_names_in_` as usual; `features_`, the FeatureSpec of the
    columns; `classifier_`, the advex Classifier of encoded rows (in float64, so that a row's answer does not depend on
    the rows beside it).
    """

    def __init__(
        self,
        network: str = "mlp:widths=64-64",
        *,
        epsilon: float = 0.1,
        objective: dict[str, dict[str, Any]] | str | None = None,
        epochs: int = 50,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.network = network
        self.epsilon = epsilon
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> RobustClassifier:
        """Train. X: [n, columns] numbers. y: [n] classes. Raises SpecError for impossible parameters."""
        values: Any
        values, y = validate_data(self, X, y, dtype=np.float64)  # pyright: ignore[reportArgumentType]
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("There is only one class in y: a classifier needs two classes or more.")
        self.features_ = _columns(values, getattr(self, "feature_names_in_", None))
        data = Dataset(
            name="rows given to fit",
            x=_encoded(self.features_, values),
            y=torch.from_numpy(labels.astype(np.int64)),
            class_names=tuple(str(name) for name in self.classes_),
            ids=tuple(map(str, range(len(values)))),
            features=self.features_,
        )
        with tempfile.TemporaryDirectory(prefix="advex-") as folder:
            trained = train(self._recipe(), data, Path(folder) / "run", device=self.device)
        self.classifier_ = trained.double().requires_grad_(False)
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities [n, classes] in the order of `classes_`."""
        rows = self._rows(X)
        return self.classifier_.predict(rows).cpu().numpy()

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable class of each row, [n]."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likeliest]

    def explain(self, X: ArrayLike, target: Any = None, *, alternatives: int = 3) -> list[Counterfactuals]:
        """For each row, what would have had to be different for the class `target` (None: the runner-up).

        Each answer prints as sentences; the counterfactuals are in its `alternatives`. Raises InputError for an
        unknown class.
        """
        rows = self._rows(X)
        number = None if target is None else int(self._numbers(np.array([target]))[0])
        return [counterfactuals(self.classifier_, row, number, k=alternatives) for row in rows]

    def robustness(self, X: ArrayLike, y: ArrayLike, *, epsilon: float | None = None) -> Score:
        """Share of rows answered rightly whatever is done to them within `epsilon` standard deviations of each column.

        epsilon: None takes that of training. Exact for `network="linear"`, by the closed form; for others what a
        search did not refute, so an upper bound. Raises InputError for unknown classes.
        """
        rows, wanted = self._rows(X), self._numbers(np.asarray(y))
        radius = as_radius(self.epsilon if epsilon is None else epsilon)
        search = attacks.build(_attack(self.network, radius, _TESTING_STEPS))
        attacked = search(self.classifier_, rows, Misclassify(wanted.to(rows.device)), max_batch=_ROWS)
        return share_score(f"accuracy within {radius:g} standard deviations", ~attacked.reached.cpu())

    def _recipe(self) -> Recipe:
        objective = self.objective
        if objective is None:
            objective, radius = {"natural": {}}, as_radius(self.epsilon)
            if radius:
                attack = _attack(self.network, radius, _TRAINING_STEPS)
                objective = {"natural": {}, "adversarial": {"attack": attack, "share": 1.0}}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        chosen = {
            "network": self.network,
            "objective": objective,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "seed": int(seed),
        }
        fixed = {"mean": 0.0, "std": 1.0, "optimiser": "adam", "decay": "weights", "robust_every": 0}
        return recipe_from({**chosen, **fixed}, where="RobustClassifier")

    def _rows(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        values: Any = validate_data(self, X, dtype=np.float64, reset=False)  # pyright: ignore[reportArgumentType]
        rows = _encoded(self.features_, values)
        return rows.to(self.classifier_.device, self.classifier_.dtype)

    def _numbers(self, y: np.ndarray) -> Tensor:
        """Classes -> their numbers [n] int64."""
        numbers = np.searchsorted(self.classes_, y).clip(0, len(self.classes_) - 1)
        if (unknown := self.classes_[numbers] != y).any():
            known = ", ".join(map(str, self.classes_))
            raise InputError(f"There is no class {str(y[unknown][0])!r}: the classes are {known}.")
        return torch.from_numpy(numbers.astype(np.int64))


def _attack(network: str, radius: float, steps: int) -> str:
    """Spec of the worst LINF change: exact where the network is one linear layer."""
    if network.partition(":")[0].strip() == "linear":
        return f"closed_form:radius={radius!r}"
    return f"pgd:norm=linf,radius={radius!r},steps={steps}"


def _columns(X: np.ndarray, names: Any) -> FeatureSpec:
    """The columns' ranges, and their means and standard deviations as units."""
    measured = (part.tolist() for part in (X.min(axis=0), X.max(axis=0), X.mean(axis=0), X.std(axis=0)))
    names = [f"x{i}" for i in range(X.shape[1])] if names is None else names
    return FeatureSpec(
        features=tuple(
            Feature(name=name, low=low - 1, high=high + 1, center=center, change="never")
            if scale <= 1e-12 * max(abs(low), abs(high))
            else Feature(name=name, low=low, high=high, center=center, scale=scale)
            for name, low, high, center, scale in zip(map(str, names), *measured, strict=True)
        ),
        target="target" if "target" not in names else "",
    )


def _encoded(features: FeatureSpec, X: np.ndarray) -> Tensor:
    """[n, d] float32 of numbers, those outside the range at its end; columns that were constant count as they were."""
    columns = [
        feature.encoded(X[:, i] if feature.change != "never" else np.full(len(X), feature.center))
        for i, feature in enumerate(features.features)
    ]
    return torch.from_numpy(np.stack(columns, axis=1))
