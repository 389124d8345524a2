"""What can be measured. The mathematics are pure functions of tensors, one value per example."""

from __future__ import annotations

from advex.measures.certified import Bracket as Bracket
from advex.measures.certified import Certificate as Certificate
from advex.measures.certified import Certify as Certify
from advex.measures.certified import bracket as bracket
from advex.measures.certified import certified_accuracy as certified_accuracy
from advex.measures.certified import certified_area as certified_area
from advex.measures.gradient_statistics import drawn_classes as drawn_classes
from advex.measures.gradient_statistics import input_gradients as input_gradients
from advex.measures.gradient_statistics import linear_change as linear_change
from advex.measures.gradient_statistics import output_change as output_change
from advex.measures.intervals import bootstrap_mean as bootstrap_mean
from advex.measures.intervals import wilson as wilson
from advex.measures.robustness import accuracy as accuracy
from advex.measures.robustness import accuracy_curve as accuracy_curve
from advex.measures.robustness import accuracy_robustness_area as accuracy_robustness_area
from advex.measures.robustness import compare_areas as compare_areas
