"""What can be measured. The mathematics are pure functions of tensors, one value per example."""

from __future__ import annotations

from advex.distances import Cosine as Cosine
from advex.distances import Distance as Distance
from advex.distances import RelativeL2 as RelativeL2
from advex.distances import Spearman as Spearman
from advex.distances import TopK as TopK
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
from advex.measures.relative_stability import relative_input_stability as relative_input_stability
from advex.measures.relative_stability import relative_output_stability as relative_output_stability
from advex.measures.robustness import accuracy as accuracy
from advex.measures.robustness import accuracy_curve as accuracy_curve
from advex.measures.robustness import accuracy_robustness_area as accuracy_robustness_area
from advex.measures.robustness import compare_areas as compare_areas
from advex.measures.sparsity import compare_ginis as compare_ginis
from advex.measures.sparsity import effective_features as effective_features
from advex.measures.sparsity import entropy as entropy
from advex.measures.sparsity import gini as gini
from advex.measures.sparsity import gini_gain as gini_gain
from advex.measures.stability import Neighbours as Neighbours
from advex.measures.stability import RandomStability as RandomStability
from advex.measures.stability import WorstCaseStability as WorstCaseStability
from advex.measures.stability import neighbours as neighbours
from advex.measures.stability import random_stability as random_stability
from advex.measures.stability import worst_case_stability as worst_case_stability
