"""What can be measured. The mathematics are pure functions of tensors, one value per example."""

from __future__ import annotations

from advex.measures.intervals import bootstrap_mean as bootstrap_mean
from advex.measures.intervals import wilson as wilson
from advex.measures.robustness import accuracy as accuracy
from advex.measures.robustness import accuracy_curve as accuracy_curve
from advex.measures.robustness import accuracy_robustness_area as accuracy_robustness_area
from advex.measures.robustness import compare_areas as compare_areas
