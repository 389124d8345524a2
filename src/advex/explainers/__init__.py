"""Explainers: why this class? Each is one file; `maps.explainer` says what its class has to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.explainers.adversarial import Away as Away
from advex.explainers.adversarial import Toward as Toward
from advex.explainers.cam import CAM as CAM
from advex.explainers.captum_maps import Deconvolution as Deconvolution
from advex.explainers.captum_maps import DeepLift as DeepLift
from advex.explainers.captum_maps import DeepLiftShap as DeepLiftShap
from advex.explainers.captum_maps import GuidedBackprop as GuidedBackprop
from advex.explainers.captum_maps import GuidedGradCAM as GuidedGradCAM
from advex.explainers.captum_perturbations import FeatureAblation as FeatureAblation
from advex.explainers.captum_perturbations import KernelShap as KernelShap
from advex.explainers.captum_perturbations import Lime as Lime
from advex.explainers.captum_perturbations import Occlusion as Occlusion
from advex.explainers.excitation import Excitation as Excitation
from advex.explainers.expected_gradients import ExpectedGradients as ExpectedGradients
from advex.explainers.extremal import Extremal as Extremal
from advex.explainers.grad_cam import GradCAM as GradCAM
from advex.explainers.grad_cam import GradCAMPlusPlus as GradCAMPlusPlus
from advex.explainers.grad_cam import LayerCAM as LayerCAM
from advex.explainers.grad_cam import NormGrad as NormGrad
from advex.explainers.gradients import Gradient as Gradient
from advex.explainers.gradients import InputXGradient as InputXGradient
from advex.explainers.integrated_gradients import IntegratedGradients as IntegratedGradients
from advex.explainers.perceptual import Perceptual as Perceptual
from advex.explainers.rise import Rise as Rise
from advex.explainers.smooth_grad import SmoothGrad as SmoothGrad
from advex.goals import targets as targets
from advex.types import Explainer as Explainer
from advex.types import Explanation


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
