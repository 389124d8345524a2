"""Norms and the box: where a search may go, and how far it went.

Everything works row by row on [n, *shape] tensors; sizes and radii are [n].
"""

from __future__ import annotations

from advex.geometry.box import Box as Box
from advex.geometry.box import Walls as Walls
from advex.geometry.norms import L0 as L0
from advex.geometry.norms import L1 as L1
from advex.geometry.norms import L2 as L2
from advex.geometry.norms import LINF as LINF
from advex.geometry.norms import RMSE as RMSE
from advex.geometry.norms import Norm as Norm
from advex.geometry.norms import as_norm as as_norm
from advex.geometry.norms import as_radius as as_radius
from advex.geometry.norms import per_row as per_row

__all__ = ["L0", "L1", "L2", "LINF", "RMSE", "Box", "Norm", "Walls", "as_norm", "as_radius", "per_row"]
