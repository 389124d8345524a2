"""How different two maps of one input are. Each distance is one file."""

from advex.distances.maps import Cosine as Cosine
from advex.distances.maps import Distance as Distance
from advex.distances.maps import RelativeL2 as RelativeL2
from advex.distances.maps import Spearman as Spearman
from advex.distances.maps import TopK as TopK
