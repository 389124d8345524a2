"""captum's hooks, put on for as long as a map is made: see `advex.reach` for what they do not reach."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from advex import reach
from advex.explainers.maps import AttributionRequest
from advex.explainers.outputs import Of, output


def is_relu(module: nn.Module) -> bool:
    """Whether guided backpropagation and deconvolution treat a module by their own rule."""
    return isinstance(module, nn.ReLU)


def reached(request: AttributionRequest, has_rule: Callable[[nn.Module], bool]) -> reach.Reach:
    """Which steps of the network the rules reach, seen in one forward pass of the first example."""
    first = request.target[:1]
    return reach.reach(
        request.classifier, request.x[:1], lambda x: output(request.classifier, x, first, request.of), has_rule
    )


class Chosen(nn.Module):
    """What is explained, as the module that captum hooks into: (x [n, *shape], target [n]) -> [n]."""

    def __init__(self, request: AttributionRequest) -> None:
        super().__init__()
        self.classifier = request.classifier
        self.of: Of = request.of

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return output(self.classifier, x, target, self.of)


@contextlib.contextmanager
def hooked(request: AttributionRequest, has_rule: Callable[[nn.Module], bool]) -> Iterator[Chosen]:
    """Inside, captum may hook into the network; each module with a rule works on a copy of its input.

    captum puts its rule on the input tensor. Where another layer reads the same tensor (a shortcut around the
    activation), or another rule has just written it (a ReLU straight before a max pool), the rules overwrite each
    other and the map is silently wrong. Afterwards no module holds anything that it did not before.
    """
    modules = [module for module in request.classifier.modules() if has_rule(module)]
    held = [set(vars(module)) for module in modules]
    hooks = [module.register_forward_pre_hook(_copied) for module in modules]
    try:
        with request.classifier.accelerated(), warnings.catch_warnings():  # not compiled, and not announced
            warnings.filterwarnings("ignore", message=r"\s*Setting (forward, )?backward hooks", category=UserWarning)
            yield Chosen(request)
    finally:
        for hook in hooks:
            hook.remove()
        for module, names in zip(modules, held, strict=True):
            for name in vars(module).keys() - names:  # captum's notes, which stay behind when a pass fails
                delattr(module, name)


def _copied(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)
