"""A classifier for people who live in scikit-learn: trained to withstand small changes, and able to say why."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from advex import attacks
from advex.attacks.closed_form import linear_layer
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.errors import InputError, SpecError
from advex.features import Feature, FeatureSpec
from advex.geometry import as_radius
from advex.goals import Misclassify
from advex.measures.intervals import share_score
from advex.recipes import fitted as recipe_fitted
from advex.tabular.linear import fit_linear
from advex.tabular.search import counterfactuals
from advex.tabular.sentences import Counterfactuals
from advex.training import Recipe, recipe_from, train
from advex.types import Score

_TRAINING_STEPS, _TESTING_STEPS = 7, 40  # gradients of the attack that is trained on, and of the one that judges
_LEAST_STEPS = 1000  # of Adam
_RESTING = 0.01  # a fall of the loss within a tenth of training, as a share of ln(classes), that is none any more
_ROWS = 4096  # that are attacked at once


class RobustClassifier(ClassifierMixin, BaseEstimator):  # what scikit-learn wants to be inherited
    """A network trained on the worst change of each row within `epsilon` (adversarial training).

    network: spec of a network, e.g. "linear" or "mlp:widths=64-64" (see `advex list network`). Of a linear one both
    the optimum (`linear.fit_linear`) and the robustness are exact; others are trained by Adam. epsilon: how far each
    column may be changed in training, in standard deviations of it; 0 is ordinary training. objective: terms as in a
    recipe instead, e.g. {"natural": {}, "l1": {"strength": 0.01}}; then a linear network is trained by Adam, too.
    weight_decay: half of it times the squared weights is added to the loss. epochs, batch_size, learning_rate: of Adam;
    None: 50 epochs, and at least 1,000 steps. random_state: of the initial weights and the order of the rows there.
    device: where it is trained. `fit` warns (ConvergenceWarning) where more steps would lower the loss.

    Columns are numbers (encode categories first). A value outside the range seen in training counts as the end of
    that range; a column that is constant in training counts for nothing.

    After `fit`: `classes_`; `n_features_in_`, `feature_names_in_` as usual; `features_`, the FeatureSpec of the
    columns; `n_iter_`, the steps of training; `classifier_`, the advex Classifier of encoded rows (in float64, so that
    a row's answer does not depend on the rows beside it).
    """

    def __init__(
        self,
        network: str = "linear",
        *,
        epsilon: float = 0.1,
        objective: dict[str, dict[str, Any]] | str | None = None,
        epochs: int | None = None,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-3,
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
        exact = _is_linear(self.network) and self.objective is None
        trained, converged = self._solved(data) if exact else self._trained(data)
        if not converged:
            warnings.warn(
                f"The loss is still falling after {self.n_iter_:,} steps: raise "
                + ("weight_decay." if exact else "epochs or learning_rate."),
                ConvergenceWarning,
                stacklevel=2,
            )
        self.classifier_ = trained.double().eval().requires_grad_(False)
        return self

    def _solved(self, data: Dataset) -> tuple[Classifier, bool]:
        """A linear network at its optimum, and whether that was reached."""
        if not isinstance(self.weight_decay, int | float | np.floating) or not 0 <= self.weight_decay < math.inf:
            raise SpecError(f"weight_decay must be a number of at least 0, not {self.weight_decay!r}.")
        network = recipe_fitted(
            Recipe.model_validate({"network": self.network}), data.shape, len(data.class_names)
        ).network
        classifier = Classifier(network, mean=0.0, std=1.0, class_names=data.class_names, features=data.features)
        layer: Any = linear_layer(classifier.double().to(self.device))
        solution = fit_linear(
            data.x.double().numpy(), data.y.numpy(), len(data.class_names), epsilon=as_radius(self.epsilon),
            weight_decay=self.weight_decay, bias=layer.bias is not None,
        )  # fmt: skip
        for parameter, values in ((layer.weight, solution.weight), (layer.bias, solution.bias)):
            if parameter is not None:
                parameter.data.copy_(torch.from_numpy(values))
        self.n_iter_ = solution.steps
        return classifier, solution.converged

    def _trained(self, data: Dataset) -> tuple[Classifier, bool]:
        """A network after its epochs, and whether the loss had come to rest."""
        losses: list[float] = []
        recipe = self._recipe(len(data))
        trained = train(recipe, data, None, device=self.device, report=lambda line: losses.append(line["loss"]))
        self.n_iter_ = len(losses)
        tenth = max(len(losses) // 10, 1)
        before, after = losses[-2 * tenth : -tenth], losses[-tenth:]
        if not before:
            return trained, False
        noise = 2 * math.hypot(np.std(before), np.std(after)) / tenth**0.5  # of batches
        fall = float(np.mean(before) - np.mean(after))
        return trained, fall <= _RESTING * math.log(len(data.class_names)) + noise

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

    def _recipe(self, rows: int) -> Recipe:
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
            "epochs": max(50, math.ceil(_LEAST_STEPS * self.batch_size / rows)) if self.epochs is None else self.epochs,
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


def _is_linear(network: str) -> bool:
    return network.partition(":")[0].strip() == "linear"


def _attack(network: str, radius: float, steps: int) -> str:
    """Spec of the worst LINF change: exact where the network is one linear layer."""
    if _is_linear(network):
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
