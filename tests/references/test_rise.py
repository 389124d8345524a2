"""RISE beside the paper's steps in loops, and beside its expectation for linear networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.errors import InputError
from advex.explainers import Rise
from advex.randomness import uniform_for

TARGET = torch.tensor([0, 2, 1])


def curved() -> Classifier:
    torch.manual_seed(0)
    network: Any = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 8 * 5, 3))
    network[3].weight.data.mul_(6)
    return Classifier(network.double(), mean=[0.4, 0.6], std=0.3).eval()


def linear(w: Tensor) -> Classifier:
    """Logits <w, x> and -<w, x> of pictures x of one channel."""
    layer = nn.Linear(w.numel(), 2, bias=False).double()
    layer.weight.data = torch.stack([w.flatten(), -w.flatten()])
    return Classifier(nn.Sequential(nn.Flatten(), layer)).eval()


def bilinear(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarged to [height, width]: the centre of pixel o lies at (o + 1/2) s / size - 1/2 among the s cells."""
    h, w = small.shape
    large = np.zeros((height, width))
    for a in range(height):
        for b in range(width):
            y, x = (min(max((o + 0.5) * s / n - 0.5, 0), s - 1) for o, s, n in ((a, h, height), (b, w, width)))
            i, j = int(y), int(x)
            below, right = min(i + 1, h - 1), min(j + 1, w - 1)
            top = small[i, j] * (1 - (x - j)) + small[i, right] * (x - j)
            bottom = small[below, j] * (1 - (x - j)) + small[below, right] * (x - j)
            large[a, b] = top * (1 - (y - i)) + bottom * (y - i)
    return large


def masks(N: int, h: int, H: int, W: int, p: float, seed: int) -> np.ndarray:
    """Petsiuk et al., Sec. 3.2: h x h elements, 1 with probability p; enlarged to (h + 1) C; cut out, indented."""
    C_H, C_W = math.ceil(H / h), math.ceil(W / h)
    M = np.zeros((N, H, W))
    for k in range(N):
        draws = uniform_for(torch.tensor([k]), seed, "rise", 2 + h * h)[0].double().numpy()
        whole = bilinear((draws[2:].reshape(h, h) < p).astype(float), (h + 1) * C_H, (h + 1) * C_W)
        down, across = int(draws[0] * C_H), int(draws[1] * C_W)
        M[k] = whole[down : down + H, across : across + W]
    return M


def test_the_papers_steps() -> None:
    """Eq. 6, with the sum of the masks in the place of its expectation N p."""
    classifier, x, N, p = curved(), torch.rand(3, 2, 10, 7, dtype=torch.float64), 12, 0.3
    made = Rise(masks=N, grid=3, keep=p)(classifier, x, TARGET, seed=5, max_batch=7).map
    M = masks(N, 3, 10, 7, p, 5)
    mean = torch.tensor([0.4, 0.6], dtype=torch.float64).reshape(2, 1, 1)
    for i, c in enumerate(TARGET.tolist()):
        shown = [x[i] * torch.from_numpy(m) + mean * (1 - torch.from_numpy(m)) for m in M]
        f = [classifier.logits(each[None]).softmax(dim=1)[0, c].item() for each in shown]
        S = sum(f[k] * M[k] for k in range(N)) / M.sum(axis=0)
        assert np.allclose(made[i], S, atol=1e-12)
        assert not np.allclose(made[i], S * M.sum(axis=0) / (N * p), rtol=0.01)


def test_masks_show_the_share_that_is_asked_for() -> None:
    explain, x = Rise(grid=5, keep=0.3), torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    drawn = explain.drawn(torch.arange(4000), x, 0)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert (drawn.mean(dim=0) - 0.3).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 4000)


@pytest.mark.parametrize(("side", "grid"), [(14, 14), (14, 7), (15, 4)])
def test_of_a_linear_network_the_map_is_its_weights_seen_through_the_masks(side: int, grid: int) -> None:
    """E[f(x m) m_i] / p = sum_j w_j x_j (p + (1 - p) K_ij), K_ij the mean over indents of sum_c u_ic u_jc.

    u_ic is how much pixel i has of cell c. Where the cells are as small as pixels, that is nearly w x itself.
    """
    p, angle = 0.5, torch.linspace(0, math.pi, side, dtype=torch.float64)
    w = angle.cos()[:, None] * angle.cos() + angle.cos()[:, None] / 2
    x = torch.rand(1, 1, side, side, dtype=torch.float64) / 2 + 0.5
    made = Rise(masks=20_000, grid=grid, keep=p, of="logit")(linear(w), x, TARGET[:1], seed=1).map.flatten()
    cell = math.ceil(side / grid)
    ends = [bilinear(unit[:, None], (grid + 1) * cell, 1)[:, 0] for unit in np.eye(grid)]
    u = np.stack(ends, axis=1)
    K = np.mean([u[a : a + side] @ u[a : a + side].T for a in range(cell)], axis=0)  # of either axis
    share = (w * x[0, 0]).numpy()
    expected = torch.from_numpy(p * share.sum() + (1 - p) * K @ share @ K.T).flatten()
    assert torch.corrcoef(torch.stack([made, expected]))[0, 1] > 0.99
    if cell == 1:
        even = Rise(masks=20_000, grid=grid, of="logit")(linear(w), torch.ones_like(x), TARGET[:1], seed=1).map
        assert torch.corrcoef(torch.stack([even.flatten(), w.flatten()]))[0, 1] >= 0.99


def test_an_answer_that_is_always_the_same_is_a_map_of_one_value() -> None:
    made = Rise(masks=300)(linear(torch.zeros(9, 9, dtype=torch.float64)), torch.rand(1, 1, 9, 9).double(), TARGET[:1])
    assert torch.allclose(made.map, torch.full_like(made.map, 0.5), atol=1e-12)


def test_where_no_mask_shows_a_pixel_it_has_the_mean() -> None:
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    w = torch.linspace(0, 1, 64, dtype=torch.float64).reshape(8, 8)
    explain = Rise(masks=3, grid=8, keep=0.1, of="logit")
    shown = explain.drawn(torch.arange(3), x, 0)
    made = explain(linear(w), x, TARGET[:1], seed=0).map
    answers = (shown * x * w).sum(dim=(1, 2, 3))
    never = shown.sum(dim=0, keepdim=True) == 0
    assert never.any()
    assert torch.allclose(made[never], answers.mean(), atol=1e-12)


def test_tables_have_no_places() -> None:
    with pytest.raises(InputError, match="Rise needs pictures"):
        Rise()(linear(torch.ones(2, 2).double()), torch.rand(1, 4).double(), TARGET[:1])
