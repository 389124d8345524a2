"""Fitting a table: `RobustClassifier` beside scikit-learn's logistic regression, as a ratio measured in one run.

python -m benchmarks.tabular
"""

from __future__ import annotations

import time
from typing import Any

from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from advex.tabular import RobustClassifier

ROWS, REPEATS = 400, 20


def main() -> None:
    """Print the least seconds of each, and the ratio."""
    for classes in (2, 3):
        x, y = make_classification(
            ROWS, 20, n_informative=6, n_classes=classes, n_clusters_per_class=1, random_state=classes
        )
        known = _seconds(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), x, y)
        for epsilon in (0.0, 0.1):
            mine = _seconds(RobustClassifier(epsilon=epsilon), x, y)
            print(f"{classes} classes, epsilon {epsilon}: {1e3 * mine:.1f} ms, {mine / known:.1f} times scikit-learn's")


def _seconds(model: Any, x: Any, y: Any) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        model.fit(x, y)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
