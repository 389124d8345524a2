"""Input gradients that lie as far from the input itself as can be."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from advex.classifier import Classifier, input_gradients
from advex.distances.channels import Channels, per_pixel
from advex.distances.cosine import cosine
from advex.errors import SpecError, did_you_mean
from advex.goals.goal import Aim, goal, own_and_others
from advex.inputs import per_channel
from advex.networks import second_derivatives

Form = Literal["triplet", "direct", "l2", "cosine"]
Negative = Literal["runner_up", "least"]
Anchor = Literal["normalised", "raw", "mixed"]


@goal("misaligned", cites="singh2020 Eq. 5", examples=("form=l2,anchor=raw,beta=10", "form=cosine,loss=1"))
@dataclass(frozen=True, kw_only=True)
class Misaligned:
    """The loss of attributional robustness, L_attr, as large as possible. It is never reached.

    form: what L_attr is. With g^i the gradient of logit i at x, d(g, a) = 1 - cos(g, a), and the anchor a (x itself):

        triplet   log(1 + exp(-(d(g^j, a) - d(g^y, a))))    Eq. 5; j is the runner-up
        cosine    d(g^y, a)                                 Eq. 4
        l2        ||g^y - a||_2                             Eq. 4
        direct    ||g^y(x) - g^y(x0)||_2                    Eq. 2; x0 is where the search began

    y: [n] int64. negative: j is the `runner_up` among the other classes, or the `least` of them. anchor: x as the
    network sees it (`normalised`, and then the gradient is with respect to that), `raw`, or `mixed`: as the network
    sees it beside the gradient with respect to raw x. channels: of gradient and anchor (see `distances.channels`).
    beta: activations with a kink are softplus_beta for the gradients; 0: they stay as they are. loss: what the
    cross-entropy, of the network as it is, is multiplied by before it is added.
    reference: [n, d], of `direct`, g^y(x0). elements: [n, d] bool, those of gradient and anchor that count; None: all.
    """

    open_ended: ClassVar[bool] = True
    unreachable: ClassVar[bool] = True

    y: Tensor
    form: Form = "triplet"
    negative: Negative = "runner_up"
    anchor: Anchor = "normalised"
    channels: Channels = "none"
    beta: float = 50.0
    loss: float = 0.0
    reference: Tensor | None = None
    elements: Tensor | None = None

    def __post_init__(self) -> None:
        for option, values in {"form": Form, "negative": Negative, "anchor": Anchor, "channels": Channels}.items():
            if getattr(self, option) not in get_args(values):
                hint = did_you_mean(str(getattr(self, option)), get_args(values))
                raise SpecError(f"{option} must be one of {', '.join(get_args(values))}: {hint}")
        if not (math.isfinite(self.beta) and self.beta >= 0 and math.isfinite(self.loss)):
            raise SpecError(f"beta must be finite and at least 0, and loss finite, not {self.beta} and {self.loss}.")

    @classmethod
    def at(
        cls,
        classifier: Classifier,
        x: Tensor,
        y: Tensor,
        *,
        form: Form = "triplet",
        negative: Negative = "runner_up",
        anchor: Anchor = "normalised",
        channels: Channels = "none",
        beta: float = 50.0,
        loss: float = 0.0,
    ) -> Misaligned:
        """The goal, with g^y at x as what `direct` leads away from."""
        return cls(y=y, form=form, negative=negative, anchor=anchor, channels=channels, beta=beta, loss=loss).away_from(
            classifier, x.detach()
        )

    def away_from(self, classifier: Classifier, x: Tensor, ask: Callable[[Tensor], Tensor] | None = None) -> Misaligned:
        """The same goal, whose reference is g^y at x, where its form has one: a constant unless `ask` is given."""
        if self.form != "direct":
            return self
        (own,) = self.gradients(classifier, x, ask)
        return dataclasses.replace(self, reference=own.detach() if ask is None else own)

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        size = self.size(classifier, x)
        if self.loss:
            size = size + self.loss * cross_entropy(classifier.logits(x), self.y, reduction="none")
        return Aim(loss=-size, reached=torch.zeros(len(x), dtype=torch.bool, device=x.device))

    def size(self, classifier: Classifier, x: Tensor, ask: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """L_attr [n], without the cross-entropy; differentiable where gradients are on.

        ask: x -> logits, a pass of the classifier's network; its own, if left away.
        """
        own, *other = self.gradients(classifier, x, ask)
        if self.reference is not None:
            return torch.linalg.vector_norm(own - self.reference, dim=1)
        anchor = self.anchors(classifier, x)
        if self.form == "l2":
            return torch.linalg.vector_norm(own - anchor, dim=1)
        if self.form == "cosine":
            return 1 - cosine(own, anchor)
        return softplus(cosine(other[0], anchor) - cosine(own, anchor))

    def anchors(self, classifier: Classifier, x: Tensor) -> Tensor:
        """What the gradients at x are to lie along: [n, d]."""
        return self._list(x if self.anchor == "raw" else classifier.normalised(x))

    def gradients(
        self, classifier: Classifier, x: Tensor, ask: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """g^y at x, and of a triplet g^j: [n, d] each. ask: see `size`."""

        def scores(x: Tensor) -> list[Tensor]:
            logits = (ask or classifier.logits)(x)
            own, others = own_and_others(logits, self.y)
            if self.form != "triplet":
                return [own]
            if self.negative == "least":
                others = -logits.scatter(1, self.y[:, None], math.inf)
            return [own, logits.gather(1, others.detach().argmax(dim=1, keepdim=True))[:, 0]]

        softened = classifier.softened(self.beta) if self.beta else contextlib.nullcontext()
        with softened, second_derivatives.cheap(classifier):
            gradients = input_gradients(scores, x, create_graph=torch.is_grad_enabled())
        scale = classifier.std if self.anchor == "normalised" else classifier.std.new_ones(())
        return [self._list(gradient * per_channel(scale, x)) for gradient in gradients]

    def _list(self, values: Tensor) -> Tensor:
        """[n, d]: what is left of the channels, and 0 where an element does not count."""
        rows = per_pixel(values, self.channels).flatten(1)
        return rows if self.elements is None else rows * self.elements
