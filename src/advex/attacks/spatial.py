"""Rotations and translations (Engstrom et al. 2019): a grid of them, the mildest first."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult, SearchState, deepest, finished_when_reached, iterate
from advex.classifier import Classifier
from advex.errors import InputError
from advex.geometry import RMSE
from advex.goals import Goal
from advex.options import AtLeast0, Count, Share


@attack("spatial", cites="engstrom2019 Sec. 4", examples=("angles=3,shift=0.5",))
class Spatial(Search):
    """A small rotation and translation of the picture that reaches the goal, using forward passes only.

    A grid of poses is tried, the mildest first; a row that has reached the goal is finished. What comes in from outside
    is 0, cut to the box. The size of such a change in a norm says little of how much a person sees of it.

    angle: degrees at most, either way. shift: at most, as a share of the side, either way. angles, shifts: how many
    values of each are tried; of shifts in either direction (31 and 5 are the paper's).
    """

    angle: AtLeast0 = 30.0
    shift: Share = 0.1
    angles: Count = 15
    shifts: Count = 3
    needs_gradient: ClassVar[bool] = False
    only_pictures: ClassVar[bool] = True

    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        if x.ndim != 4:
            raise InputError(f"The spatial attack needs pictures [n, channels, height, width], not {list(x.shape)}.")
        poses = self.poses
        return iterate(_Poses(poses), classifier, x, goal, norm=RMSE, steps=len(poses), mask=mask)

    @property
    def poses(self) -> list[tuple[float, float, float]]:
        """(angle in radians, shift to the right, and down, in half sides) of all but the picture as it is."""
        turns, moves = _around(math.radians(self.angle), self.angles), _around(2 * self.shift, self.shifts)
        poses = itertools.product(turns, moves, moves)
        return sorted((pose for pose in poses if any(pose)), key=lambda pose: sum(part * part for part in pose))


def _around(most: float, count: int) -> list[float]:
    """`count` numbers from -most to most; of one, 0."""
    return [0.0] if count == 1 else [most * (2 * place / (count - 1) - 1) for place in range(count)]


class _Poses:
    needs_gradient = False

    def __init__(self, poses: list[tuple[float, float, float]]) -> None:
        self.poses = poses

    def start(self, state: SearchState) -> None:
        pass

    def step(self, state: SearchState, k: int) -> Tensor:
        return posed(state.x, *self.poses[k]) - state.x

    def better(self, state: SearchState) -> Tensor:
        return deepest(state)

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        return finished_when_reached(state)


def posed(x: Tensor, angle: float, right: float, down: float) -> Tensor:
    """Pictures [n, channels, height, width] turned anticlockwise and then moved; bilinear, 0 from outside.

    angle: in radians. right, down: in half sides.
    """
    height, width = x.shape[2:]
    cos, sin, aspect = math.cos(angle), math.sin(angle), height / width
    # Where each place of the new picture comes from: moved back, then turned back, in coordinates from -1 to 1.
    back = torch.tensor([[cos, -sin * aspect], [sin / aspect, cos]], dtype=x.dtype, device=x.device)
    offset = -back @ torch.tensor([right, down], dtype=x.dtype, device=x.device)
    matrix = torch.cat([back, offset[:, None]], dim=1).expand(len(x), 2, 3)
    grid = affine_grid(matrix, list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
