"""A network with its data space around it, and the one place that takes input derivatives."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from advex.errors import AdvexWarning, InputError
from advex.features import FeatureSpec
from advex.geometry import Box
from advex.layers import derivatives
from advex.networks.residual_drop import active_dropout
from advex.precision import full_float32, may_round_float32

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


def input_gradient(
    score: Callable[[Tensor], Result], x: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Result]:
    """d(sum of score)/dx, and what score returned.

    score: maps x [n, *shape] to a tensor [n], or to an object whose `loss` is one (a goal's `Aim`).
    create_graph: keep the gradient differentiable, for objectives and maps that are trained on.
    Returns (gradient [n, *shape], the result of score). The gradient is zero where the score does not
    depend on x. Rows do not mix as long as the score's rows do not.
    """
    if not x.requires_grad:
        x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        result = score(x)
        values: Tensor = result if isinstance(result, Tensor) else result.loss  # pyright: ignore[reportAttributeAccessIssue]
        (gradient,) = derivatives(values, [x], create_graph=create_graph)
    return gradient, result


@contextlib.contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter takes part in derivatives."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class Classifier(nn.Module):
    """Any network, with what belongs to it: box, normalisation, class names.

    Takes inputs in data space (images: [0, 1]) and returns logits, so a radius means what it says.

    network: any `nn.Module` that maps [n, *shape] to logits [n, classes], or to an object with
        `.logits`; or a spec string such as `"preact_resnet:depth=20"` (then it can be saved).
    box: (lower, upper), numbers or tensors that broadcast against one input; (0, 1) if left away.
    mean, std: the normalisation that the network expects, one number or one per channel (axis 1);
        applied inside.
    class_names: one per class.
    features: for rows of a table, what its columns are; the box is theirs, and searches end at valid rows.

    Raises InputError for a normalisation or box that cannot be meant.
    """

    lower: Tensor
    upper: Tensor
    rises: Tensor | None
    falls: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module | str,
        *,
        box: tuple[float | Tensor, float | Tensor] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        class_names: Sequence[str] | None = None,
        features: FeatureSpec | None = None,
    ) -> None:
        super().__init__()
        if box is not None and features is not None:
            raise InputError("The box of a table's rows is that of its features: leave box out.")
        limits = Box(*(box or (0.0, 1.0))) if features is None else features.box()  # pyright: ignore
        self.features = features
        self.spec: str | None = None
        if isinstance(network, str):
            from advex import networks

            self.spec, network = network, networks.build(network)
        self.network = network
        self.class_names = tuple(str(name) for name in class_names) if class_names is not None else None
        for name, value in {"lower": limits.lower, "upper": limits.upper, "mean": mean, "std": std}.items():
            # In float64 until the network's precision is known: 0.4914 must not lose digits on the way.
            tensor = torch.as_tensor(value, dtype=torch.float64)
            if not torch.isfinite(tensor).all():
                raise InputError(f"The classifier's {name} must be finite, not {value}.")
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("rises", limits.rises, persistent=False)
        self.register_buffer("falls", limits.falls, persistent=False)
        if self.mean.ndim > 1 or self.std.ndim > 1:
            raise InputError("mean and std are one number or one per channel, not a tensor of several axes.")
        if not (self.std > 0).all():
            raise InputError(f"std must be above 0 in every channel, not {self.std.tolist()}.")
        if self.mean.ndim and self.std.ndim and len(self.mean) != len(self.std):
            raise InputError(f"mean has {len(self.mean)} channels, std has {len(self.std)}.")
        if not (self.lower < self.upper).all():
            raise InputError(f"The box is empty: lower {limits.lower}, upper {limits.upper}.")
        reference = next((p for p in network.parameters() if p.is_floating_point()), None)
        self.to(torch.empty(0) if reference is None else reference)
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] | None = None
        self._autocast: torch.dtype | None = None

    # -- what it owns ------------------------------------------------------------------------------------

    @property
    def box(self) -> Box:
        """The valid range of inputs, on the classifier's device."""
        return Box(self.lower, self.upper, self.rises, self.falls)

    @property
    def device(self) -> torch.device:
        """Where its parameters are; inputs must be there too."""
        return self.lower.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of its parameters, and so of its inputs."""
        return self.lower.dtype

    # -- asking it ---------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes] of inputs [n, *shape] in data space, in the parameters' own precision.

        Raises InputError for inputs outside the box, not finite, of the wrong type, device, channel
        count or size; warns where the answer cannot be trusted (probabilities, active dropout).
        """
        self.check(x)
        if self.training and (dropout := active_dropout(self.network)):
            warnings.warn(
                f"The classifier is in training mode with active dropout ('{dropout}'): its answers are "
                "random. Call .eval() first.",
                AdvexWarning,
                stacklevel=2,
            )
        try:
            logits = self._logits(self.network, x)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise InputError(
                f"The network does not take inputs of shape {tuple(x.shape[1:])}: {error}. Grey and colour mixed up, "
                "channels last, or another size than it was made for?"
            ) from error
        self._check_logits(x, logits)
        return logits

    def logits(self, x: Tensor) -> Tensor:
        """As `forward`, without its checks, and by the fast path inside `accelerated()`.

        For inner loops, whose inputs are known to be valid. Always float (never bfloat16).
        """
        # Inside a function that is being compiled as a whole, the network is a part of it.
        network = self.network if torch.compiler.is_compiling() else self.fast(self.network)
        if self._autocast is None:
            return self._logits(network, x)
        with torch.autocast(self.device.type, self._autocast):
            return self._logits(network, x).to(self.dtype)

    def _logits(self, network: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        output = network((x - _per_channel(self.mean, x)) / _per_channel(self.std, x))
        output = getattr(output, "logits", output)
        if not isinstance(output, Tensor):
            raise InputError(
                f"The network returned {type(output).__name__}; a classifier needs logits [n, classes], or an "
                "object with .logits. Wrap the network so that it returns them."
            )
        return output

    @torch.no_grad()
    def predict(self, x: Tensor, *, max_batch: int = 512) -> Tensor:
        """Softmax confidences [n, classes], computed in evaluation mode in slices of max_batch."""
        with self.frozen():
            parts = [self(part) for part in x.split(max_batch)] if len(x) else [self(x)]
        return torch.cat(parts).softmax(dim=1)

    # -- what is checked ---------------------------------------------------------------------------------

    def check(self, x: Tensor) -> None:
        """Raise InputError unless x [n, *shape] is a valid input: see `forward`."""
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise InputError(f"Inputs are tensors [n, *shape]; got {getattr(x, 'shape', type(x).__name__)}.")
        if not x.is_floating_point():
            raise InputError(f"Inputs must be floating point in data space, got {x.dtype}: divide 8-bit images by 255.")
        if x.dtype != self.dtype:
            raise InputError(f"The input is {x.dtype}, the classifier {self.dtype}: use x.to(classifier.dtype).")
        if x.device != self.device:
            raise InputError(f"The input is on {x.device}, the classifier on {self.device}: x.to(classifier.device).")
        for name in ("mean", "std"):
            channels = getattr(self, name)
            if channels.ndim and len(channels) not in (1, x.shape[1]):
                raise InputError(
                    f"The input has {x.shape[1]} channels (axis 1 of {tuple(x.shape)}), the classifier's "
                    f"{name} has {len(channels)}. Grey and colour mixed up, or channels last?"
                )
        if x.numel() == 0:
            return
        try:
            outside = torch.maximum((self.lower - x).amax(), (x - self.upper).amax()).item()
        except RuntimeError:
            shapes = f"Inputs of shape {tuple(x.shape)} do not fit the box of shape {tuple(self.lower.shape)}"
            raise InputError(f"{shapes}.") from None
        if not outside <= 1e-6 * (1 + self.upper.abs().max().item()):  # also true for NaN
            if not torch.isfinite(x).all():
                raise InputError(f"The input holds {int((~torch.isfinite(x)).sum())} values that are NaN or infinite.")
            low, high = x.amin().item(), x.amax().item()
            bytes_like = high > 2 and low >= 0
            cause = "0..255 pixels: divide by 255" if bytes_like else "already normalised? The classifier does that"
            raise InputError(
                f"Inputs must lie in the box [{self.lower.amin().item():g}, {self.upper.amax().item():g}], found "
                f"[{low:.4g}, {high:.4g}]. ({cause})"
            )

    def _check_logits(self, x: Tensor, logits: Tensor) -> None:
        if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            wanted = f"logits [n, classes >= 2] for n = {len(x)}"
            raise InputError(f"The network must return {wanted}, got {tuple(logits.shape)}.")
        if self.class_names is not None and logits.shape[1] != len(self.class_names):
            raise InputError(f"The network has {logits.shape[1]} outputs for {len(self.class_names)} class names.")
        if returns_probabilities(logits):
            warnings.warn(
                "The network seems to return probabilities (rows are positive and sum to one). Attacks on "
                "them stall and look stronger than they are: remove the final softmax and return logits.",
                AdvexWarning,
                stacklevel=3,
            )

    # -- how it is used by searches ----------------------------------------------------------------------

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Classifier]:
        """Evaluation mode and no parameter gradients inside; everything as it was outside, always."""
        modes = [(module, module.training) for module in self.modules()]
        try:
            with constant(self):
                self.eval()
                yield self
        finally:
            for module, training in modes:
                module.training = training

    @contextlib.contextmanager
    def between_rows(self) -> Iterator[Classifier]:
        """Inside, searches may end between a table's valid rows, anywhere in its box: training withstands all of it."""
        features, self.features = self.features, None
        try:
            yield self
        finally:
            self.features = features

    @contextlib.contextmanager
    def accelerated(self, *, compiled: bool = False, bfloat16: bool = False, tf32: bool = True) -> Iterator[Classifier]:
        """Inside, `logits` (what searches climb) runs compiled and / or in bfloat16.

        `forward`, and what `attacks.verify` judges by, never do. tf32: False keeps GPUs from rounding float32 to ten
        bits inside convolutions and matrix products, as torch lets them do in the former.
        """
        before = self._compiled, self._autocast
        with contextlib.nullcontext() if tf32 else full_float32():
            try:
                # __dict__: an nn.Module attribute would be registered as a second copy of the network.
                self.__dict__["_compiled"] = (self._compiled or {}) if compiled else None
                self.__dict__["_autocast"] = torch.bfloat16 if bfloat16 else None
                yield self
            finally:
                self.__dict__["_compiled"], self.__dict__["_autocast"] = before

    def fast(self, function: Function, **options: Any) -> Function:
        """A function of this network; inside `accelerated(compiled=True)` its `torch.compile`d form, made once."""
        if self._compiled is None:
            return function
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, dynamic=False, **options)
        return self._compiled[function]  # pyright: ignore[reportReturnType]

    @property
    def compiled(self) -> bool:
        """Searches should keep to few batch sizes: each new one is compiled anew."""
        return self._compiled is not None

    @property
    def reduced_precision(self) -> bool:
        """Whether `logits` has fewer digits than its type: bfloat16, or TF32 on a GPU. See `accelerated`."""
        rounds = self.device.type == "cuda" and self.dtype == torch.float32
        return self._autocast is not None or (rounds and may_round_float32())


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def returns_probabilities(logits: Tensor) -> bool:
    """Whether rows [n, classes] look like probabilities: none below 0, each row summing to one."""
    values = logits.detach()
    return bool(len(values) and (values >= 0).all() and ((values.sum(dim=1) - 1).abs() < 1e-3).all())


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 2)) if values.ndim else values
