"""A network with its data space around it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from advex.contexts import constant, doubts, in_modes, own_context, warn_of_doubt
from advex.errors import AdvexError, AdvexWarning, InputError
from advex.features import FeatureSpec
from advex.geometry import Box, Norm, as_norm
from advex.inputs import check_inputs, check_network, limits_of, names_of, network_of, numbers, per_channel
from advex.layers import input_gradient, input_gradients
from advex.logits import ERRORS, as_logits, check_logits, doubt_of, failure, mean_of, out_of_memory
from advex.networks.function import FunctionNetwork, Returns
from advex.networks.residual_drop import active_dropout
from advex.networks.softening import Softening, softened
from advex.options import by_option
from advex.precision import check_space, full_float32, may_round_float32
from advex.progress import beat

__all__ = ["Classifier", "Function", "constant", "input_gradient", "input_gradients"]

Function = TypeVar("Function", bound=Callable[..., Any])

_HALF = (torch.float16, torch.bfloat16)
_AROUND = ("lower", "upper", "rises", "falls", "mean", "std")  # what belongs to a network: buffers


class Classifier(nn.Module):
    """Any network, with what belongs to it: box, normalisation, class names.

    Takes inputs in data space (images: [0, 1]) and returns logits, so a radius means what it says.

    network: any `nn.Module` that maps [n, *shape] to logits [n, classes], or to an object or dictionary with
        `logits`; or a spec string such as `"preact_resnet:depth=20"` (then it can be saved). Of a compiled module the
        one that was compiled: see `accelerated`.
    box: (lower, upper), numbers or tensors that broadcast against one input; (0, 1) if left away.
    mean, std: the normalisation that the network expects, one number or one per channel (axis 1);
        applied inside.
    class_names: one per class.
    features: for rows of a table, what its columns are; the box is theirs, and searches end at valid rows.
    logits: where they are in what the network returns, e.g. `lambda output: output[0]`.
    binary: the network has one output z, [n] or [n, 1], for two classes: the logits are [0, z].

    Networks in float16 and bfloat16 are asked in their precision; all else, and so `dtype`, is float32.
    input_shape: of one input, where the folder that it was opened from says it; else None.
    Raises InputError for a network, normalisation or box that cannot be meant, SpecError for an unknown option.
    """

    lower: Tensor
    upper: Tensor
    rises: Tensor | None
    falls: Tensor | None
    mean: Tensor
    std: Tensor

    @own_context()
    @by_option(preprocessing="give mean=... and std=... instead, which are applied inside.")
    def __init__(
        self,
        network: nn.Module | str,
        *,
        box: tuple[float | Tensor, float | Tensor] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        class_names: Sequence[str] | None = None,
        features: FeatureSpec | None = None,
        logits: Callable[[Any], Any] | None = None,
        binary: bool = False,
    ) -> None:
        super().__init__()
        limits = limits_of(box, features)
        self.features = features
        self.spec: str | None = None
        self.input_shape: tuple[int, ...] | None = None
        if isinstance(network, str):
            self.spec, network = network, network_of(network)
        check_network(network, logits)
        compiled_from = getattr(network, "_orig_mod", None)
        self.network = network = compiled_from if isinstance(compiled_from, nn.Module) else network
        self.chosen, self.binary = logits, binary
        self.class_names = names_of(class_names)
        for name, value in {"lower": limits.lower, "upper": limits.upper, "mean": mean, "std": std}.items():
            # In float64 until the network's precision is known: 0.4914 must not lose digits on the way.
            self.register_buffer(name, numbers(value, name), persistent=False)
        self.register_buffer("rises", limits.rises, persistent=False)
        self.register_buffer("falls", limits.falls, persistent=False)
        if self.mean.ndim > 1 or self.std.ndim > 1:
            raise InputError(
                "mean and std must each be one number or one number per channel, not a tensor with several axes."
            )
        if not (self.std > 0).all():
            raise InputError(f"std must be above 0 in every channel, not {self.std.tolist()}.")
        if self.mean.ndim and self.std.ndim and len(self.mean) != len(self.std):
            raise InputError(f"mean has {len(self.mean)} channels, but std has {len(self.std)}.")
        if not (self.lower < self.upper).all():
            raise InputError(f"The box is empty: lower {limits.lower}, upper {limits.upper}.")
        width = self.upper - self.lower
        common = features is None and width.numel() > 0 and bool((width == width.flatten()[0]).all())
        self.width = float(width.flatten()[0]) if common else 1.0  # what radii and RMSE are shares of
        reference = next((p for p in network.parameters() if p.is_floating_point()), None)
        self.to(torch.empty(0, dtype=torch.float32) if reference is None else reference)
        check_space(self.lower, self.upper, self.mean, self.std)
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] | None = None
        self._autocast: torch.dtype | None = None
        self._eager, self.draws, self.pixelwise = False, 1, False  # see `softened`; `contexts.averaged`, `pixelwise`

    @classmethod
    @by_option()
    def from_function(
        cls,
        function: Callable[[Any], Any],
        *,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        box: tuple[float | Tensor, float | Tensor] | None = None,
        features: FeatureSpec | None = None,
        returns: Returns = "confidences",
        queries: int | None = None,
        pairs: int = 0,
    ) -> Classifier:
        """A classifier that is only a function, such as a forest, an ONNX session or a service on this machine.

        function: maps a NumPy array [n, *shape], float32 in data space, to confidences or logits [n, classes] or to
            labels [n]; a row's answer must not depend on the others. classes, returns, queries, pairs: see
            `networks.function.FunctionNetwork`. class_names, box, features: as of any classifier.

        Raises InputError for what the function returns instead of answers, and for more than `queries`.
        """
        limits, class_names = limits_of(box, features), names_of(class_names)
        if class_names is not None and classes not in (None, len(class_names)):
            raise InputError(f"There are {classes} classes, but {len(class_names)} class names.")
        network = FunctionNetwork(
            function, classes=classes if class_names is None else len(class_names), returns=returns, queries=queries,
            pairs=pairs, lower=numbers(limits.lower, "lower"), upper=numbers(limits.upper, "upper"),
        )  # fmt: skip
        return cls(network, box=box, class_names=class_names, features=features).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Classifier:
        """As of any module; but what is around the network stays at least float32."""
        exact = {name: getattr(self, name) for name in _AROUND}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            if value is not None and (moved := getattr(self, name)).dtype in _HALF:
                setattr(self, name, value.to(moved.device, torch.float32))
        return self

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
        """The floating type of its inputs: that of its parameters, and float32 where these have half as many digits."""
        return self.lower.dtype

    @property
    def network_dtype(self) -> torch.dtype:
        """The floating type that the network itself takes."""
        own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), self.dtype)
        return own if own in _HALF else self.dtype

    def norm(self, name: str | Norm) -> Norm:
        """A norm of changes as shares of the box's width: 1 is black to white, whatever black and white are.

        Where elements have ranges of their own, as the columns of tables do, it is in their own units.
        """
        return as_norm(name).per(self.width)

    # -- asking it ---------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes] of inputs [n, *shape] in data space, in the parameters' own precision.

        Raises InputError for inputs outside the box, not finite, of the wrong type, device, channel
        count or size, and with the network's own words for what it raises; warns where the answer cannot be trusted
        (NaN or infinite, probabilities, active dropout).
        """
        self.check(x)
        return self.answers(x)

    def answers(self, x: Tensor) -> Tensor:
        """As `forward`, of inputs that have been checked."""
        if self.training and (dropout := active_dropout(self.network)):
            warnings.warn(
                f"The classifier is in training mode with active dropout ('{dropout}'): its outputs are "
                "random. Call .eval() first.",
                AdvexWarning,
                stacklevel=3,
            )
        logits = self._logits(self.network, x)
        check_logits(logits, len(x), None if self.class_names is None else len(self.class_names))
        if doubts() and (doubt := doubt_of(logits)):
            warn_of_doubt(doubt, stacklevel=3)
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
        return mean_of(lambda: self._answer(network, x), self.draws)

    def _answer(self, network: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        normalised = self.normalised(x).to(self.network_dtype)
        if self.pixelwise and x.ndim == 4:
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        if torch.compiler.is_compiling():
            output = network(normalised)
        else:
            beat()
            try:
                output = network(normalised)
            except ERRORS as error:
                if isinstance(error, AdvexError) or out_of_memory(error):
                    raise
                raise failure(error, x) from error
        return as_logits(output, len(x), self.chosen, self.binary).to(self.dtype)

    def normalised(self, x: Tensor) -> Tensor:
        """What the network sees of x [n, *shape]: (x - mean) / std, channel by channel."""
        x = x.to(self.dtype)
        return (x - per_channel(self.mean, x)) / per_channel(self.std, x)

    def predict(self, x: Tensor, *, max_batch: int = 512) -> Tensor:
        """Softmax confidences [n, classes], computed in evaluation mode in slices of max_batch."""
        if not isinstance(max_batch, int) or max_batch < 1:
            raise InputError(f"max_batch must be at least 1, not {max_batch!r}.")
        with torch.no_grad(), self.frozen():
            parts = [self(part) for part in x.split(max_batch)] if isinstance(x, Tensor) and len(x) else [self(x)]
            return torch.cat(parts).softmax(dim=1)

    def check(self, x: Tensor) -> None:
        """Raise InputError unless x [n, *shape] is a valid input: see `forward`."""
        types = (self.dtype, self.network_dtype)
        check_inputs(x, self.lower, self.upper, {"mean": self.mean, "std": self.std}, types)

    # -- how it is used by searches ----------------------------------------------------------------------

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Classifier]:
        """Evaluation mode, no parameter gradients, no contexts of the caller; everything as it was outside, always."""
        with own_context(), constant(self), in_modes((module, False) for module in self.modules()):
            yield self

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

    @contextlib.contextmanager
    def softened(self, beta: float, kind: Softening = "softplus", *, sharper_only: bool = False) -> Iterator[int]:
        """Inside, activations with kinks are smooth and nothing is compiled: see `networks.softening.softened`."""
        with contextlib.ExitStack() as after:
            after.callback(setattr, self, "_eager", self._eager)
            self._eager = True
            yield after.enter_context(softened(self.network, beta, kind, sharper_only=sharper_only))

    def fast(self, function: Function, **options: Any) -> Function:
        """A function of this network; inside `accelerated(compiled=True)` its `torch.compile`d form, made once."""
        if self._compiled is None or self._eager:
            return function
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, dynamic=False, **options)
        return self._compiled[function]  # pyright: ignore[reportReturnType]

    @property
    def compiled(self) -> bool:
        """Searches should keep to few batch sizes: each new one is compiled anew."""
        return self._compiled is not None and not self._eager

    @property
    def reduced_precision(self) -> bool:
        """Whether `logits` has fewer digits than its type: bfloat16, or TF32 on a GPU. See `accelerated`."""
        rounds = self.device.type == "cuda" and self.dtype == torch.float32
        return self._autocast is not None or (rounds and may_round_float32())
