"""Explainers: why this class? Each is one file; `maps.explainer` says what its class has to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.explainers.adversarial import Away, Toward
from advex.explainers.cam import CAM
from advex.explainers.captum_maps import Deconvolution, DeepLift, DeepLiftShap, GuidedBackprop, GuidedGradCAM
from advex.explainers.captum_perturbations import FeatureAblation, KernelShap, Lime, Occlusion
from advex.explainers.excitation import Excitation
from advex.explainers.expected_gradients import ExpectedGradients
from advex.explainers.extremal import Extremal
from advex.explainers.grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM, NormGrad
from advex.explainers.gradients import Gradient, InputXGradient
from advex.explainers.integrated_gradients import IntegratedGradients
from advex.explainers.perceptual import Perceptual
from advex.explainers.rise import Rise
from advex.explainers.smooth_grad import SmoothGrad
from advex.goals import targets
from advex.types import Explainer, Explanation

__all__ = [
    "CAM",
    "Away",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "Excitation",
    "ExpectedGradients",
    "Explainer",
    "Extremal",
    "FeatureAblation",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GuidedBackprop",
    "GuidedGradCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerCAM",
    "Lime",
    "NormGrad",
    "Occlusion",
    "Perceptual",
    "Rise",
    "SmoothGrad",
    "Toward",
    "build",
    "every_class",
    "sweep",
    "targets",
]


def build(spec: str) -> Explainer:
    """The explainer a spec string names, e.g. `"toward:rho=0.05"`. Raises SpecError."""
    return registry.build("explainer", spec)


def every_class(x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Each example once per class, example by example: ([n * classes, *shape], targets [n * classes])."""
    return x.repeat_interleave(classes, dim=0), torch.arange(classes, device=x.device).repeat(len(x))


def sweep(
    explainer: Toward | Away,
    rhos: Sequence[float | str],
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    seed: int = 0,
) -> list[Explanation]:
    """The same class explained at several distances, one explanation per rho (Woods et al. 2019, Fig. S2)."""
    return [replace(explainer, rho=rho)(classifier, x, target, seed=seed) for rho in rhos]
