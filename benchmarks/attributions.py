"""What maps cost beside captum's, and by how much the two differ, in one table.

    python -m benchmarks.attributions
    python -m benchmarks.attributions --networks mnist_cnn --images 4 --rounds 3

Each method is asked once per round, captum's and ours one after the other, so that a slow minute hits both.
`ratio` is the median over rounds of captum's seconds divided by ours of the same round: above 1 ours is
faster. Both are given the same images, the same frozen network in evaluation mode, and the same draws where
they draw. captum runs as it comes (all points of the path at once) and, where it can, in passes of as many
rows as ours. `memory` is the peak of one call above the resting process, in a process of its own.
`difference` is the largest of any element of the maps, relative to the largest element of captum's.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from advex.classifier import Classifier
from advex.explainers import ExpectedGradients, GradCAM, IntegratedGradients, SmoothGrad
from advex.explainers.expected_gradients import draws
from advex.explainers.request import rows_of_a_pass
from advex.randomness import normal
from advex.registry import parse
from benchmarks.memory import above_rest, in_a_process

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # captum's own imports warn
    from captum import attr

NETWORKS = {"mnist_cnn": (1, 28, 28), "preact_resnet:depth=44": (3, 32, 32)}
STEPS, SAMPLES, BACKGROUND = 100, 50, 8
Map = Callable[[], Tensor]


@dataclass(frozen=True)
class Method:
    """One row of the table: how the map is made here, and by captum in its own way and in passes of our size."""

    ours: Map
    captum: Map
    captum_in_passes: Map | None = None


def methods(classifier: Classifier, x: Tensor, target: Tensor) -> dict[str, Method]:
    """All of them, for images x and the classes asked about."""
    rows = rows_of_a_pass(x)
    gradients = attr.IntegratedGradients(classifier.logits)
    background = torch.rand(BACKGROUND, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    shap = ExpectedGradients(samples=SAMPLES, baseline=background)
    smooth = SmoothGrad(samples=SAMPLES)
    noise = _noise(x, smooth.sigma * (classifier.upper - classifier.lower))
    named = GradCAM(layer=str(parse(GradCAM()(classifier, x, target).method)[1]["layer"]))
    layer = classifier.get_submodule(named.layer)

    def integrated(batch: int | None) -> Tensor:
        return gradients.attribute(
            x, 0.0, target=target, n_steps=STEPS, method="riemann_middle", internal_batch_size=batch
        )

    def tunnel(batch: int | None) -> Any:
        with given(normals=noise):
            return attr.NoiseTunnel(attr.Saliency(classifier.logits)).attribute(
                x, nt_type="smoothgrad", nt_samples=SAMPLES, nt_samples_batch_size=batch, stdevs=1.0, target=target,
                abs=False,
            )  # fmt: skip

    def gradient_shap() -> Tensor:
        alpha, row = draws(x, 0, SAMPLES, BACKGROUND)
        with given(uniforms=alpha.flatten(), choices=row.flatten()):
            return attr.GradientShap(classifier.logits).attribute(x, background, n_samples=SAMPLES, target=target)

    def grad_cam() -> Tensor:
        maps: Any = attr.LayerGradCam(classifier.logits, layer).attribute(x, target=target, relu_attributions=True)
        return interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False).expand_as(x)

    return {
        f"Integrated Gradients, {STEPS} points": Method(
            lambda: IntegratedGradients(steps=STEPS)(classifier, x, target).map,
            lambda: integrated(None),
            lambda: integrated(max(rows, len(x))),
        ),
        f"SmoothGrad, {SAMPLES} samples": Method(
            lambda: smooth(classifier, x, target).map,
            lambda: tunnel(None),
            lambda: tunnel(max(rows // len(x), 1)),
        ),
        f"GradientSHAP, {SAMPLES} samples": Method(lambda: shap(classifier, x, target).map, gradient_shap),
        "Grad-CAM, layer named": Method(lambda: named(classifier, x, target).map, grad_cam),
        "Grad-CAM, layer found": Method(lambda: GradCAM()(classifier, x, target).map, grad_cam),
    }


def _noise(x: Tensor, width: Tensor) -> Tensor:
    """Our draws, in captum's order: all samples of the first image, then of the next."""
    each = [normal(x[i : i + 1], 0, f"smooth_grad:{k}") for i in range(len(x)) for k in range(SAMPLES)]
    return width * torch.cat(each)


@contextmanager
def given(
    *, normals: Tensor | None = None, uniforms: Tensor | None = None, choices: Tensor | None = None
) -> Iterator[None]:
    """Inside, captum draws what it is given, in order."""
    real = torch.normal, np.random.uniform, np.random.choice
    left = [normals]

    def next_normals(mean: float, deviation: Tensor) -> Tensor:
        assert left[0] is not None
        now, left[0] = left[0][: len(deviation)], left[0][len(deviation) :]
        return now

    try:
        if normals is not None:
            torch.normal = next_normals
        if uniforms is not None and choices is not None:
            np.random.uniform = lambda low, high, size: uniforms.double().numpy()
            np.random.choice = lambda *_, **__: choices.numpy()
        yield
    finally:
        torch.normal, np.random.uniform, np.random.choice = real


def network(spec: str, images: int) -> tuple[Classifier, Tensor, Tensor]:
    """A frozen network in evaluation mode, images, and a class for each."""
    torch.manual_seed(0)
    classifier = Classifier(spec, mean=0.5, std=0.25).eval().requires_grad_(False)
    x = torch.rand(images, *NETWORKS[spec], generator=torch.Generator().manual_seed(2))
    return classifier, x, torch.arange(images) % 10


def timed(found: Method, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, after one to warm up."""
    calls = {"ours": found.ours, "captum": found.captum}
    if found.captum_in_passes is not None:
        calls["captum in passes"] = found.captum_in_passes
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str) -> str:
    """How many times longer than ours, as the median over rounds."""
    if name not in seconds:
        return ""
    return f"{statistics.median(a / b for a, b in zip(seconds[name], seconds['ours'], strict=True)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=";".join(NETWORKS), help="separated by semicolons")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
    if args.memory:
        spec, name, whose = args.memory
        print(above_rest(getattr(methods(*network(spec, args.images))[name], whose)))
        return
    print(
        f"{args.images} images, torch {torch.__version__}, captum {version('captum')}, "
        f"{torch.get_num_threads()} thread(s), {platform.machine()}\n"
    )
    print("| network | map | ms per image | captum / ours | in equal passes | memory, ours and captum's | difference |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for spec in args.networks.split(";"):
        classifier, x, target = network(spec, args.images)
        for name, found in methods(classifier, x, target).items():
            seconds = timed(found, args.rounds)
            mine, theirs = found.ours(), found.captum().detach()
            difference = (mine - theirs).abs().max() / theirs.abs().max()
            peaks = ""
            if not args.no_memory:
                held = [_peak(args.images, spec, name, whose) for whose in ("ours", "captum")]
                peaks = f"{held[0]:.0f} and {held[1]:.0f} MB"
            each = 1000 * statistics.median(seconds["ours"]) / len(x)
            print(
                f"| `{spec}` | {name} | {each:.1f} | {ratio(seconds, 'captum')} | {ratio(seconds, 'captum in passes')} "
                f"| {peaks} | {difference:.0e} |",
                flush=True,
            )


def _peak(images: int, spec: str, name: str, whose: str) -> float:
    print(f"memory of {name} ({whose})", file=sys.stderr)
    return in_a_process("benchmarks.attributions", "--images", str(images), "--memory", spec, name, whose)


if __name__ == "__main__":
    main()
