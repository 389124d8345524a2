"""What can be measured: pure functions of tensors, and measures of explanations, which ask a `Case`."""

from __future__ import annotations

from advex.distances import Cosine, Distance, RelativeL2, Spearman, TopK
from advex.measures.case import Case, Measure, Measured, Value, apply, build, values_of
from advex.measures.certified import Bracket, Certificate, Certify, bracket, certified_accuracy, certified_area
from advex.measures.gradient_statistics import (
    GradientSize,
    LinearEstimate,
    drawn_classes,
    input_gradients,
    linear_change,
    output_change,
)
from advex.measures.intervals import bootstrap_mean, mean_score, share_score, wilson
from advex.measures.nearby import Neighbours, neighbours
from advex.measures.random_change import RandomChange, RandomStability, random_stability
from advex.measures.relative_stability import (
    RelativeStability,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
    representation,
)
from advex.measures.robustness import accuracy, accuracy_curve, accuracy_robustness_area, compare_areas
from advex.measures.sparsity import (
    Effective,
    Entropy,
    Gini,
    compare_ginis,
    effective_features,
    entropy,
    gini,
    gini_gain,
)
from advex.measures.worst_change import WorstCase, WorstChange, worst_case_stability

__all__ = [
    "Bracket",
    "Case",
    "Certificate",
    "Certify",
    "Cosine",
    "Distance",
    "Effective",
    "Entropy",
    "Gini",
    "GradientSize",
    "LinearEstimate",
    "Measure",
    "Measured",
    "Neighbours",
    "RandomChange",
    "RandomStability",
    "RelativeL2",
    "RelativeStability",
    "Spearman",
    "TopK",
    "Value",
    "WorstCase",
    "WorstChange",
    "accuracy",
    "accuracy_curve",
    "accuracy_robustness_area",
    "apply",
    "bootstrap_mean",
    "bracket",
    "build",
    "certified_accuracy",
    "certified_area",
    "compare_areas",
    "compare_ginis",
    "drawn_classes",
    "effective_features",
    "entropy",
    "gini",
    "gini_gain",
    "input_gradients",
    "linear_change",
    "mean_score",
    "neighbours",
    "output_change",
    "random_stability",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "representation",
    "share_score",
    "values_of",
    "wilson",
    "worst_case_stability",
]
