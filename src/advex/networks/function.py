"""A classifier that is only a function: its answers are known, its gradients are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advex import randomness
from advex.errors import InputError

Returns = Literal["confidences", "logits", "labels"]

NO_GRADIENT = (
    "This classifier is a function that returns outputs but no gradients. Use methods that need only "
    "outputs: the searches hop_skip_jump and boundary_walk:start=noise for a small change, square, spsa and "
    "spatial within a distance (--suite square), counterfactual for tables; the explainers occlusion, "
    "feature_ablation, kernel_shap, lime and rise. By default an evaluation uses searches and pictures that "
    "follow gradients; to avoid them: --attack hop_skip_jump --btr none --pictures none. Or estimate "
    "gradients from pairs of outputs: Classifier.from_function(f, ..., pairs=50)."
)
_STEP = 1e-3  # of differences, as a share of each element's range
_SURE = 30.0  # the logit of a label that comes without a confidence


class FunctionNetwork(nn.Module):
    """A function of NumPy arrays in the place of a network. See `Classifier.from_function`.

    classes: how many there are; of labels they must be known. returns: confidences, logits or labels. queries: rows
    that the function may be asked in all; None: any number. pairs: of answers from which each gradient is estimated; 0:
    what needs gradients is refused with the reason. lower, upper: the box.
    asked: how many rows the function has answered. estimates: how many rows' gradients were estimated.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], Any],
        *,
        classes: int | None,
        returns: Returns,
        queries: int | None,
        pairs: int,
        lower: Tensor,
        upper: Tensor,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise InputError(f"{type(function).__name__} is not callable: pass a function that takes an array.")
        for name, value, least in (("classes", classes, 2), ("queries", queries, 1), ("pairs", pairs, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        if returns not in ("confidences", "logits", "labels"):
            raise InputError(f"returns must be 'confidences', 'logits' or 'labels', not {returns!r}.")
        if returns == "labels" and (classes is None or pairs):
            raise InputError(
                "For a function that returns labels, give the number of classes (classes=10) and no pairs: "
                "gradients cannot be estimated from labels."
            )
        self.function, self.classes, self.returns = function, classes, returns
        self.queries, self.pairs, self.lower, self.upper = queries, pairs, lower, upper
        self.asked = self.estimates = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes]. Raises InputError for a gradient, unless they are estimated, and for too many rows."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.answers(x)
        if not self.pairs:
            raise InputError(NO_GRADIENT)
        return _Estimated.apply(x, self)  # pyright: ignore[reportReturnType]

    def answers(self, x: Tensor) -> Tensor:
        """What the function says of x [n, *shape], as logits."""
        if self.queries is not None and self.asked + len(x) > self.queries:
            raise InputError(
                f"The function has been called on {self.asked} rows, and the limit is {self.queries} "
                f"(queries=): the next {len(x)} rows exceed it. Raise it, use fewer examples, or use a "
                "search with fewer queries."
            )
        try:
            answer = self.function(x.detach().cpu().numpy().copy())  # the function may change what it is given
        except (OSError, ArithmeticError) as error:
            raise InputError(f"The function raised {type(error).__name__} for {len(x)} rows: {error}.") from error
        try:
            output = np.asarray(answer)
        except ValueError as error:
            raise InputError(f"The function did not return an array: {error}.") from None
        self.asked += len(x)
        if self.returns == "labels":
            return self._certain(output.reshape(-1), len(x)).to(x)
        wide = output.ndim == 2 and output.shape[1] in (self.classes, output.shape[1] if self.classes is None else 0)
        if not wide or len(output) != len(x) or output.dtype.kind not in "fiu":
            wanted = f"[{len(x)}, {self.classes or 'classes'}]"
            raise InputError(f"The function must return numbers {wanted}, not {output.dtype} {list(output.shape)}.")
        values = torch.tensor(output.astype(np.float64))
        if self.returns == "logits":
            return values.to(x)
        if ((values < 0) | (values > 1 + 1e-6)).any() or ((values.sum(dim=1) - 1).abs() > 1e-3).any():
            raise InputError(
                "The rows returned by the function are not confidences: these must be in [0, 1] and add up "
                "to 1. For logits use returns='logits'."
            )
        return values.clamp_min(1e-30).log().to(x)  # a logit of -69, not of -inf

    def _certain(self, labels: np.ndarray, n: int) -> Tensor:
        assert self.classes is not None
        if (
            labels.shape != (n,)
            or labels.dtype.kind not in "iub"
            or not ((labels >= 0) & (labels < self.classes)).all()
        ):
            raise InputError(f"The function must return {n} labels, whole numbers from 0 to {self.classes - 1}.")
        chosen = torch.tensor(labels.astype(np.int64))
        return _SURE * torch.nn.functional.one_hot(chosen, self.classes).double()

    def extra_repr(self) -> str:
        """Its name. It does not tell one function from another: a model may be fitted again under the same name."""
        named = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"{getattr(self.function, '__module__', '')}.{named}, returns={self.returns!r}, pairs={self.pairs}"


class _Estimated(torch.autograd.Function):
    """Answers whose gradient is a mean of differences along random directions (Nesterov and Spokoiny 2017, Eq. 26).

    With u ~ N(0, I), E[u (F(x + h u) - F(x - h u)) / (2 h)] is the gradient of F smoothed over h; here in units of each
    element's range, between the walls of the box.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: FunctionNetwork) -> Tensor:
        ctx.network = network
        ctx.save_for_backward(x)
        return network.answers(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        network: FunctionNetwork = ctx.network
        (x,) = ctx.saved_tensors
        network.estimates += len(x)
        low, high = network.lower.to(x), network.upper.to(x)
        span = torch.where((high - low).isfinite(), high - low, 1.0)
        total = torch.zeros_like(x)
        for k in range(network.pairs):
            step = _STEP * span * randomness.normal(x, 0, f"pair {k}")
            ahead, behind = ((x + sign * step).clamp(low, high) for sign in (1, -1))
            rise = ((network.answers(ahead) - network.answers(behind)) * gradients[0]).sum(dim=1) / (2 * _STEP)
            total += rise.reshape(-1, *[1] * (x.ndim - 1)) * (ahead - behind) / (2 * _STEP * span**2)
        return total / network.pairs, None
