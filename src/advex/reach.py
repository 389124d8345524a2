"""Which steps of a network hooks on modules reach: they see modules, and nothing else.

DeepLift and guided backpropagation replace the derivative of each activation by a rule of their own, and a search that
keeps the layers' answers still has to hear them. An activation called as a function, or a module of another kind, is
silently left out. Here a forward pass is read from its autograd graph, and every step that is not linear and not
inside a module of the wanted kind is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from advex.networks.activations import HalfHuberReLU

if TYPE_CHECKING:
    from advex.classifier import Classifier

# Functions of one number. The rescale rule of DeepLift (Shrikumar et al. 2017, Eq. 13) is the same for all of them;
# captum applies it to the first line alone.
_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(HalfHuberReLU, nn.GELU, nn.SiLU, nn.Mish, nn.SELU, nn.CELU, nn.ReLU6, nn.Hardtanh, nn.Hardswish),
    *(nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Threshold),
)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)

# Autograd nodes that are linear in all of their inputs together ...
_LINEAR = re.compile(
    r"(AccumulateGrad|BackwardHookFunction|Add|Sub|Rsub|Neg|Sum|Mean|Cumsum|Cat|Stack|Clone|\w*Copy\w*|Alias"
    r"|View\w*|ReshapeAlias|UnsafeView|T|Transpose|Permute|Movedim\w*|Squeeze|Unsqueeze|Expand|Repeat\w*|Select|Slice"
    r"|Narrow|Index|IndexSelect|Gather|Take\w*|\w*Split\w*|Unbind|Unfold|AsStrided|Diagonal|Flip|Roll|Tril|Triu"
    r"|\w+Pad(Nd|\dD)|Pixel\w+|Im2Col|Col2Im|Fft\w+|\w*AvgPool\dD|Upsample\w+|\w*BatchNorm|NllLoss\w*"
    r"|Mul|Div|Mm|Mv|Bmm|Dot|Add(mm|mv|r|bmm)|Baddbmm|\w*Linear|\w*Convolution\w*)"
)
# ... and those of them that multiply: linear as long as one factor alone depends on the input.
_PRODUCT = re.compile(r"(Mul|Mm|Mv|Bmm|Dot|Add(mm|mv|r|bmm)|Baddbmm|\w*Linear|\w*Convolution\w*)")
# Not linear, and not what a rule for ReLUs is about.
_NO_ACTIVATION = re.compile(r"MaxPool|Softmax|Norm|Var|Std|Sqrt|Rsqrt|Attention|^(Mul|Div|Mm|Bmm|Baddbmm)$|Logsumexp")


def has_rescale_rule(module: nn.Module) -> bool:
    """Whether DeepLift treats a module by its own rule. Exact types: a subclass may compute anything."""
    return type(module) in _ELEMENTWISE or type(module) in POOLS


def is_activation(module: nn.Module) -> bool:
    """Whether a module is a ReLU, or acts number by number in the place of one: leaky, half-Huber, GELU, SiLU, ..."""
    return isinstance(module, (*_ELEMENTWISE, nn.PReLU, nn.RReLU))


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What the rules reach in one forward pass.

    connected: the output depends on the input at all, as far as autograd knows. calls: of each module with a
    rule, by a readable name. missed: steps that are not linear and without a rule, modules first.
    activations: those of them that are neither pools, norms, softmax nor products.
    """

    connected: bool
    calls: Counter[str]
    missed: tuple[str, ...]
    activations: tuple[str, ...]


def reach(
    classifier: Classifier, x: Tensor, run: Callable[[Tensor], Tensor], has_rule: Callable[[nn.Module], bool]
) -> Reach:
    """Which steps of the network the rules reach, seen in one forward pass.

    x: [1, *shape], an example. run: makes the pass at an x that derivatives go through, and returns its output; the
    network's parameters take none (`Classifier.frozen`), or products with them are no linear steps.
    Nothing is changed: the pass is watched by torch's hooks for all modules.
    """
    names = {module: f"{type(module).__name__} '{name}'" for name, module in classifier.network.named_modules()}
    begins: dict[nn.Module, set[Node]] = {}
    inside: dict[Node, nn.Module] = {}  # the nodes of modules without modules of their own
    calls: Counter[str] = Counter()

    def before(module: nn.Module, inputs: Any) -> None:
        begins[module] = {value.grad_fn for value in inputs if isinstance(value, Tensor) and value.grad_fn is not None}

    def after(module: nn.Module, inputs: Any, result: Any) -> None:
        if module not in names or not isinstance(result, Tensor) or any(module.children()):
            return
        calls.update([names[module]] if has_rule(module) else [])
        inside.update(dict.fromkeys(_nodes(result, begins[module]), module))

    watching = register_module_forward_pre_hook(before), register_module_forward_hook(after)
    with watching[0], watching[1], classifier.accelerated(), torch.enable_grad():
        result = run(x.detach().requires_grad_())
    missed: dict[str, bool] = {}  # the name, and whether it is an activation
    for node in _nodes(result, set()):
        module = inside.get(node)
        if not _is_linear(node) and (module is None or not has_rule(module)):
            name = f"the function {_kind(node).lower()}" if module is None else names[module]
            missed[name] = missed.get(name, False) or not _NO_ACTIVATION.search(_kind(node))
    place = {name: number for number, name in enumerate(names.values())}
    in_order = sorted(missed, key=lambda name: place.get(name, len(place)))
    return Reach(
        connected=result.grad_fn is not None,
        calls=calls,
        missed=tuple(in_order),
        activations=tuple(name for name in in_order if missed[name]),
    )


def _nodes(result: Tensor, ends: set[Node]) -> list[Node]:
    """The autograd nodes between a tensor and `ends` (these left out), from the result backwards."""
    seen: dict[Node, None] = {}
    waiting = [] if result.grad_fn is None else [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node not in seen and node not in ends:
            seen[node] = None
            waiting += [following for following, _ in node.next_functions if following is not None]
    return list(seen)


def _kind(node: Node) -> str:
    return re.sub(r"Backward\d*$", "", node.name().removeprefix("torch::autograd::")).lstrip("_")


def _is_linear(node: Node) -> bool:
    """Of the inputs of a node, those that do not depend on the network's input are absent: None."""
    kind, depends = _kind(node), [following is not None for following, _ in node.next_functions]
    if kind == "Div":
        return not any(depends[1:])
    return bool(_LINEAR.fullmatch(kind)) and (not _PRODUCT.fullmatch(kind) or sum(depends) <= 1)
