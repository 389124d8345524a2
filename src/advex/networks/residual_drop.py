"""Losing residual branches at random while training: stochastic depth and ShakeDrop.

Both scale the branch F_l of block l = 1..L, x + F_l(x), by a random number. A block survives a batch
(b_l = 1) with probability p_l = 1 - (l / L) (1 - p_L), so that late blocks are lost most often:

    stochastic depth   x + b_l F_l(x)                                        (Huang et al. 2016)
    ShakeDrop          x + (b_l + alpha - b_l alpha) F_l(x), forwards        (Yamada et al. 2018)
                       x + (b_l + beta  - b_l beta)  F_l(x), backwards
    evaluation         x + p_l F_l(x), the expectation of both, since alpha is 0 on average

b_l is drawn once per batch and block, as by Huang et al.; alpha, uniform in [-a, a], and beta, uniform
in [0, 1], once per example and block (what Yamada et al. call the "image" level).

Woods et al. 2019, Table I, compare stochastic depth (p_L = 0.8 and 0.5) and ShakeDrop (alpha = 0, p_L = 0.8).
Its rows with "layer drop 0.8" are defined nowhere in the paper: stochastic depth with p_L = 0.8, which drops
whole layers and is the one value of both, is the likely meaning.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from advex.errors import SpecError, did_you_mean

DROPS = ("none", "stochastic_depth", "shakedrop")

# What a branch is multiplied by, forwards and backwards; backwards as forwards where that is None.
Factors = tuple[Tensor, Tensor] | tuple[Tensor | float, None]

Number = TypeVar("Number", int, Tensor)


def survival_probability(block: Number, blocks: int, last: float) -> float | Number:
    """p_l of block l = 1..L, falling in a line to p_L = `last`. block: one number, or a tensor of them."""
    return 1 - block / blocks * (1 - last)


def scaled(path: Tensor, factors: Factors) -> Tensor:
    """A residual branch [n, ...] times its factors, in its own precision."""
    if factors[1] is None:
        return path * factors[0]
    # The value forwards * path on the slope backwards * path. To autograd the rest is a constant, so an input
    # gradient of the network has the slope beta in it and the derivative of that gradient has beta again:
    # alpha decides where derivatives are taken, never what they are. Made of torch operations rather than as
    # an autograd function, whose second derivative torch.compile loses silently.
    value, slope = path * factors[0].to(path.dtype), path * factors[1].to(path.dtype)
    return value.detach() + (slope - slope.detach())


class ResidualDrop(nn.Module):
    """The factors of all residual branches for one pass of a batch: see the head of this file.

    kind: "stochastic_depth" or "shakedrop". blocks: L. survival: p_L in (0, 1]. alpha: a in [0, 1], of
    ShakeDrop alone; 0 drops the whole branch, as stochastic depth does, but sends gradients through it.
    Has no weights and no buffers.

    A branch that is lost is computed all the same and multiplied by 0, where Huang et al. skip it. This
    saves no time, but every batch updates the branch's batch-norm statistics, which evaluation needs of
    all branches, and every parameter has a gradient in every step.
    """

    def __init__(self, kind: str, blocks: int, survival: float, alpha: float = 0.0) -> None:
        super().__init__()
        self.kind, self.blocks, self.survival, self.alpha = kind, blocks, float(survival), float(alpha)

    @property
    def p(self) -> float:
        """The largest probability that a block is lost; 0 leaves nothing to chance. Named as in `nn.Dropout`."""
        return 1 - self.survival

    def forward(self, x: Tensor) -> list[Factors]:
        """Factors of each block for a batch x [n, channels, height, width], of which only n and the device count.

        In training mode they are drawn from the global generator of that device. The draws depend on
        nothing but its state and n; which blocks survive does not even depend on n.
        """
        if not self.training:
            numbers = range(1, self.blocks + 1)
            return [(survival_probability(number, self.blocks, self.survival), None) for number in numbers]
        numbers = torch.arange(1, self.blocks + 1, device=x.device)
        draws = torch.rand(self.blocks, dtype=torch.float32, device=x.device)
        b = draws < survival_probability(numbers, self.blocks, self.survival)
        if self.kind == "stochastic_depth":
            return [(each, None) for each in b.to(torch.float32).unbind()]
        draws = torch.rand(2, self.blocks, len(x), 1, 1, 1, dtype=torch.float32, device=x.device)
        b = b.reshape(-1, 1, 1, 1, 1)
        # b + alpha - b alpha is 1 where b is, and alpha elsewhere; written so, it is 1 exactly.
        forwards = torch.where(b, 1.0, (2 * draws[0] - 1) * self.alpha)
        backwards = torch.where(b, 1.0, draws[1])
        return list(zip(forwards.unbind(), backwards.unbind(), strict=True))

    def extra_repr(self) -> str:
        return f"{self.kind}, blocks={self.blocks}, survival={self.survival:g}, alpha={self.alpha:g}"


def residual_drop(kind: str, blocks: int, survival: float, alpha: float) -> ResidualDrop | None:
    """The drop of a network's options; None for "none".

    Raises SpecError for an unknown kind, for values out of range, and for alpha where nothing uses it.
    """
    if kind not in DROPS:
        raise SpecError(f"There is no drop '{kind}': {did_you_mean(kind, DROPS)}")
    if not 0 < survival <= 1:
        raise SpecError(f"survival, the probability of keeping the last block, must lie in (0, 1], not {survival}.")
    if not 0 <= alpha <= 1:
        raise SpecError(f"alpha, half the width of ShakeDrop's forward range, must lie in [0, 1], not {alpha}.")
    if alpha and kind != "shakedrop":
        raise SpecError(f"alpha={alpha} is an option of drop=shakedrop only; this network has drop={kind}.")
    return None if kind == "none" else ResidualDrop(kind, blocks, survival, alpha)


def active_dropout(network: nn.Module) -> str | None:
    """Name of the first dropout layer of a network that is active, if any."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd | ResidualDrop) and module.training and module.p > 0:
            return name
    return None
