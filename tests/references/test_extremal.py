"""Extremal perturbations beside the paper's mask and climb, pixel by pixel, and where the answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from advex import registry
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.explainers import Extremal
from advex.explainers.extremal import Smooth
from advex.randomness import uniform_for


def k(z: float) -> float:
    """The kernel of Fong et al.'s code: flat to half its width, then a bell."""
    return math.exp(-2 * max(z - 0.5, 0) ** 2)


def m(v: Tensor, H: int, W: int, M: int, step: int, sigma: float) -> Tensor:
    """Eq. 8: m(u) = smax_i k(u - u_i) v_i over the i near u, for u from M pixels outside the picture on.

    smax_i a_i = sum_i a_i exp(20 a_i) / sum_i exp(20 a_i). A value that is not on the grid counts as 0.
    """
    reach, rows = 1 + math.ceil(sigma / step), []
    for y in range(-M, H + M):
        row = []
        for x in range(-M, W + M):
            a = []
            for i in range(y // step - reach, y // step + reach + 1):
                for j in range(x // step - reach, x // step + reach + 1):
                    inside = 0 <= i < v.shape[0] and 0 <= j < v.shape[1]
                    value = v[i, j] if inside else torch.zeros((), dtype=v.dtype)
                    a.append(k(math.hypot(y - step * i, x - step * j) / sigma) * value)
            a = torch.stack(a)
            row.append((a * (20 * a).softmax(dim=0)).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("H", "W", "step", "sigma", "M"), [(48, 40, 2, 4.5, 4), (9, 12, 1, 1.125, 1)])
def test_masks_are_soft_maxima_of_bells(H: int, W: int, step: int, sigma: float, M: int) -> None:
    smooth = Smooth(torch.zeros(1, 1, H, W, dtype=torch.float64))
    assert (smooth.margin, smooth.grid) == (M, [math.ceil(H / step), math.ceil(W / step)])
    v = torch.rand(2, *smooth.grid, dtype=torch.float64) ** 4
    made = smooth(v)
    assert torch.allclose(made[1], m(v[1], H, W, M, step, sigma), atol=1e-12)
    assert torch.equal(smooth.inside(made)[1], made[1, M : M + H, M : M + W])


def test_the_derivative_of_masks() -> None:
    smooth = Smooth(torch.zeros(1, 1, 9, 5, dtype=torch.float64))
    v = torch.rand(2, *smooth.grid, dtype=torch.float64)
    assert torch.autograd.gradcheck(smooth, v.requires_grad_())


def curved() -> Classifier:
    torch.manual_seed(0)
    network: Any = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 7 * 4, 3))
    network[3].weight.data.mul_(10)
    return Classifier(network.double(), mean=0.4, std=0.3).eval()


def blurred(x: Tensor, level: int) -> Tensor:
    sigma = 20 / 224 * 9 * (1 - level / 7)
    return torch.stack([torch.from_numpy(gaussian_filter(channel.numpy(), sigma)) for channel in x])


def climbed(classifier: Classifier, x: Tensor, c: int, a: float, steps: int, variant: str) -> Tensor:
    """Eq. 4 and 6 by the authors' settings: max Phi(m * x) - lambda |vecsort(m) - r_a|^2, gradients with momentum.

    What is equal in m is sorted by given draws, and Phi is scaled by what the strongest blur changes of any logit.
    """
    draws = uniform_for(torch.zeros(1, dtype=torch.int64), 0, "extremal", 11 * 8)[0].double()
    levels = [blurred(x, level) for level in range(8)]
    v = torch.ones(9, 6, dtype=torch.float64, requires_grad=True)
    change = (classifier.logits(x[None]) - classifier.logits(levels[0][None])).abs().max().detach()
    climb = torch.optim.SGD([v], lr=0.01, momentum=0.9, dampening=0.9)
    r = torch.zeros(11 * 8, dtype=torch.float64)
    r[int(11 * 8 * (1 - a)) :] = 1
    mask = v
    for t in range(steps):
        whole = m(v, 9, 6, 1, 1, 21 / 224 * 9)
        mask = whole[1:-1, 1:-1]

        def Phi(mask: Tensor, t: int = t) -> Tensor:
            picture = torch.zeros_like(x)
            for level in range(8):  # a hat about each level
                picture = picture + (1 - (7 * mask - level).abs()).clamp_min(0) * levels[level]
            picture = picture.flip(2) if t % 2 == 0 else picture
            return 60 / change * classifier.logits(picture[None])[0, c]

        def vecsort(m: Tensor) -> Tensor:
            return m.flatten()[(m.detach().flatten() + 1e-6 * draws).argsort()]

        rewards = {"preserve": lambda: Phi(mask), "delete": lambda: -Phi(1 - mask)}  # noqa: B023
        reward = sum(each() for name, each in rewards.items() if variant in (name, "dual"))
        constraint = 300 * 1.0035 ** (800 * t / steps) * (vecsort(whole) - r).square().mean()
        climb.zero_grad()
        (constraint - reward).backward()
        climb.step()
        v.data.clamp_(0, 1)
    return mask.detach()


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_the_papers_climb(variant: Any) -> None:
    classifier, x = curved(), torch.rand(2, 2, 9, 6, dtype=torch.float64)
    target, areas, steps = torch.tensor([0, 2]), (0.1, 0.3), 5
    made = Extremal(areas=areas, steps=steps, variant=variant)(classifier, x, target, max_batch=3).map
    for i, c in enumerate(target.tolist()):
        masks = [climbed(classifier, x[i], c, a, steps, variant) for a in areas]
        assert torch.allclose(
            made[i], torch.stack(masks).mean(dim=0).expand(2, 9, 6), atol=1e-9
        )  # five steps of a climb


def test_the_mask_is_where_sharpness_counts() -> None:
    """The logit is what stripes in two discs, each the other's mirror image, have of their contrast."""
    row, column = torch.arange(32)[:, None], torch.arange(32)
    discs = ((row - 10) ** 2 + ((column - 15.5).abs() - 8.5) ** 2) < 6**2
    stripes = (1.0 - 2 * (row % 2)).double().expand(32, 32)
    layer = nn.Linear(32 * 32, 2, bias=False).double()
    w = 0.3 * (discs * stripes).flatten()
    layer.weight.data = torch.stack([w, -w])
    classifier, x = Classifier(nn.Sequential(nn.Flatten(), layer)).eval(), (0.5 + 0.4 * stripes)[None, None]
    area = discs.sum().item() / 38**2  # with a margin of three pixels on each side
    made = Extremal(areas=area, steps=400)(classifier, x, torch.tensor([0])).map[0, 0]
    assert made[discs].mean() > 0.8
    assert made[~discs].mean() < 0.1


def test_the_size_of_logits_makes_no_difference() -> None:
    classifier, x = curved(), torch.rand(1, 2, 9, 6, dtype=torch.float64)
    masks = []
    for factor in (1, 0.01):
        classifier.network[3].weight.data.mul_(factor)  # pyright: ignore
        classifier.network[3].bias.data.mul_(factor)  # pyright: ignore
        masks.append(Extremal(steps=40)(classifier, x, torch.tensor([1])).map)
    assert torch.allclose(*masks, atol=1e-6)


def test_the_area_is_kept_nearly() -> None:
    classifier, x = curved(), torch.rand(3, 2, 9, 6, dtype=torch.float64)
    for area in (0.1, 0.3, 0.6):
        made = Extremal(areas=area)(classifier, x, torch.tensor([0, 1, 2])).map[:, 0]
        most = area * 11 * 8 / (9 * 6)  # of the picture, where all of the mask lies inside
        assert (made.mean(dim=(1, 2)) <= most + 0.08).all()  # it is weighed against the logit
        assert (made.mean(dim=(1, 2)) > area / 2).all()


def test_areas_are_one_or_several() -> None:
    explain = registry.build("explainer", "extremal:areas=0.05-0.2")
    assert explain.areas == (0.05, 0.2)
    assert registry.build("explainer", registry.describe(explain)) == explain
    for wrong in ("0", "1.5", "0.1-many", "0.1-1"):
        with pytest.raises(SpecError, match="Areas must be fractions of the picture above 0 and below 1"):
            registry.build("explainer", f"extremal:areas={wrong}")
    with pytest.raises(InputError, match="Extremal needs pictures"):
        Extremal()(curved(), torch.rand(1, 4).double(), torch.tensor([0]))


def test_a_mask_depends_on_its_picture_alone() -> None:
    """Where the network does: the climb begins from equal values and would make much of rounding."""

    class Weighed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            way = x * torch.linspace(-1, 1, x[0].numel()).view(x[0].shape)
            return torch.stack([way.flatten(1).sum(dim=1), way.flip(3).flatten(1).sum(dim=1)], dim=1)

    classifier = Classifier(Weighed(), mean=0.5, std=0.5)
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 0])
    together = Extremal(steps=20)(classifier, x, target).map
    alone = [Extremal(steps=20)(classifier, x[row : row + 1], target[row : row + 1]).map for row in range(3)]
    assert torch.equal(together, torch.cat(alone))
