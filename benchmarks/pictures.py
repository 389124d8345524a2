"""Draws the README's pictures from the bundled networks, their figures and the published ones.

    python -m benchmarks.pictures explanations photos pareto curves generated --record records/bundled --out docs/images

explanations: what an ordinary and a robust network answer to the same question, by Grad-CAM, LIME (both through
captum) and an adversarial explanation, as in Woods et al. 2019, Fig. 1 and 4 to 6. photos: the same for the first
photos of the bundled sample. pareto: accuracy against attack
ARA by the papers' protocol, bundled networks beside the published rows. curves: accuracy against the size of the
change, from an evaluation's record, with certified curves where there are any (Fig. 3). generated: one seed of each
class, and what an ordinary and a robust network paint from it, as `advex generate all --data cifar10` does.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import advex
from advex import bundled, papers
from advex.classifier import Classifier
from advex.drawing.heat import coloured
from advex.record import read_rows

KINDS = {"ordinary": "ordinary network", "robust": "robust network"}
EXAMPLES = {
    "cifar10": ("automobile/0041", "cat/0001", "bird/0015", "ship/0027"),
    "photos": ("val_5.", "val_8.", "val_11.", "val_14.", "val_18.", "val_42."),
}
RHO = 0.1
INK = {"ordinary": "#8a8a8a", "adversarial": "#b8860b", "lipschitz": "#2a7f9e", "robust": "#b03a2e"}

# The published network of each kind: rows of Woods et al. 2019, Tables I and II.
SAME_KIND = {"ordinary": "traditional", "adversarial": "at-l2-0.01", "lipschitz": "tandem-1.5",
             "robust": "both-hhat-l2min-0.1"}  # fmt: skip
# Certified accuracy at L2 radii, the best noise of each: Cohen et al. 2019, from their repository's tables.
COHEN = {0.25: 0.60, 0.5: 0.43, 0.75: 0.32, 1.0: 0.23, 1.25: 0.17, 1.5: 0.14}

# -- the same question, three ways -------------------------------------------------------------------------


def grad_cam(classifier: Classifier, x: Tensor, target: int) -> Tensor:
    """[height, width], at least 0: of the last feature map, enlarged."""
    from captum.attr import LayerAttribution, LayerGradCam

    network: Any = classifier.network
    maps: Any = LayerGradCam(classifier, network.act).attribute(x, target=target, relu_attributions=True)
    return LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")[0, 0].detach()


def lime(classifier: Classifier, x: Tensor, target: int, patch: int = 4) -> Tensor:
    """[height, width]: weights of patches, each replaced by the picture's mean."""
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    height, width = x.shape[2:]
    rows, columns = torch.arange(height) // patch, torch.arange(width) // patch
    patches = rows[:, None] * (width // patch) + columns
    torch.manual_seed(0)

    def confidence(pictures: Tensor) -> Tensor:
        return classifier(pictures).softmax(dim=1)

    found = Lime(confidence, interpretable_model=SkLearnRidge(alpha=1.0)).attribute(
        x,
        target=target,
        feature_mask=patches.expand(1, x.shape[1], -1, -1),
        baselines=x.mean(dim=(2, 3), keepdim=True).expand_as(x),
        n_samples=1000,
        perturbations_per_eval=100,
    )
    return found[0, 0].detach()


def overlaid(x: Tensor, heat: Tensor) -> np.ndarray:
    """A heat map on the paled picture, in the colours of all maps: orange speaks for the class, blue against it."""
    scale = float(heat.abs().max().clamp_min(1e-12))
    value = (heat / scale).numpy()
    colour = coloured(heat.numpy(), scale) / 255
    grey = x[0].mean(dim=0, keepdim=True).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    strength = 0.75 * np.abs(value)[..., None]
    return (1 - strength) * (0.4 + 0.6 * grey) + strength * colour


def panels(classifier: Classifier, x: Tensor, says: int, other: int) -> list[tuple[np.ndarray, str]]:
    """(picture, words) of one network for one example."""
    names = classifier.class_names or ()
    found: list[tuple[np.ndarray, str]] = [
        (overlaid(x, grad_cam(classifier, x, says)), ""),
        (overlaid(x, lime(classifier, x, says, x.shape[-1] // 8)), ""),
    ]
    for target in (says, other):
        one = advex.explainers.Toward(rho=RHO)(classifier, x, torch.tensor([target]))
        assert one.picture is not None
        assert one.after is not None
        sure = 100 * float(one.after[0, target])
        found.append((one.picture[0].permute(1, 2, 0).numpy(), f"{names[target]} {sure:.0f} %"))
    return found


def explanations(out: Path, record: Path | None, group: str = "cifar10", name: str = "explanations") -> None:
    """A line per example, a block per network."""
    examples, data = EXAMPLES[group], advex.open_dataset(f"{group}-sample")
    models = {kind: advex.load(f"builtin:{group}-{kind}") for kind in KINDS}
    widths = [1.0] + [0.12, 1, 1, 1, 1] * len(models)  # a gap before each network
    height = 1.45 * len(examples) + 0.45
    figure, grid = plt.subplots(
        len(examples), len(widths), figsize=(1.25 * sum(widths), height),
        gridspec_kw={"wspace": 0.07, "hspace": 0.2, "left": 0.005, "right": 0.995, "top": 1 - 0.59 / height,
                     "bottom": 0.36 / height, "width_ratios": widths},
    )  # fmt: skip
    for axis in grid[:, [place for place, width in enumerate(widths) if width < 1]].flat:
        axis.set_axis_off()
    axes = grid[:, [place for place, width in enumerate(widths) if width == 1]]
    for line, example in zip(axes, examples, strict=True):
        row = next(i for i, name in enumerate(data.ids) if name.startswith(example))
        batch = data.batch(slice(row, row + 1))
        says = int(batch.y[0])
        ranked = models["robust"].predict(batch.x)[0].argsort(descending=True).tolist()
        other = next(target for target in ranked if target != says)
        shown: list[tuple[np.ndarray, str]] = [(batch.x[0].permute(1, 2, 0).numpy(), data.class_names[says])]
        for classifier in models.values():
            shown += panels(classifier, batch.x, says, other)
        for axis, (picture, words) in zip(line, shown, strict=True):
            axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(textwrap.fill(words, 20), fontsize=8.5, labelpad=2)
            axis.spines[:].set_visible(False)
    titles = ["input"] + ["Grad-CAM", "LIME", "why?", "why not?"] * len(models)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9.5, pad=4)
    for number, words in enumerate(KINDS.values()):
        first, last = (axes[0][1 + 4 * number + step].get_position() for step in (0, 3))
        figure.text(
            (first.x0 + last.x1) / 2, 1 - 0.175 / height, words, ha="center", va="center", fontsize=11, weight="bold"
        )
    saved(figure, out / f"{name}.png")


def photos(out: Path, record: Path | None) -> None:
    """The same for photos of 64x64."""
    explanations(out, record, "photos", "photos")


def saved(figure: Any, path: Path) -> None:
    """Write it as PNG, on white: README pages may be dark."""
    figure.savefig(path, dpi=120, facecolor="white", pil_kwargs={"optimize": True})
    plt.close(figure)
    print(path)


# -- figures beside published ones -------------------------------------------------------------------------


def pareto(out: Path, record: Path | None) -> None:
    """Accuracy against attack ARA, both by the papers' protocol."""
    paper = papers.read("woods2019")
    figure, axis = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    rows = [row for name in ("I", "II") for row in paper.tables[name].rows if row.same_as is None]
    axis.plot(
        [row.published["attack_ara"] for row in rows], [row.published["accuracy"] for row in rows],
        "o", color="#b5b5b5", markerfacecolor="white", markersize=5, label="published, Tables I and II",
    )  # fmt: skip
    for kind, row in SAME_KIND.items():
        theirs, ours = paper.rows[row].published, bundled.figures(f"cifar10-{kind}").published
        accuracy = bundled.figures(f"cifar10-{kind}").scores["accuracy"]  # of more images than the slow search saw
        area = ours["attack_published_ara"]
        axis.plot(theirs["attack_ara"], theirs["accuracy"], "o", color=INK[kind], markerfacecolor="white",
                  markersize=8, markeredgewidth=1.8)  # fmt: skip
        axis.errorbar(
            area.value, 100 * accuracy.value, fmt="o", color=INK[kind], markersize=8, elinewidth=1, label=kind,
            xerr=[[area.value - area.low], [area.high - area.value]],
            yerr=[[100 * (accuracy.value - accuracy.low)], [100 * (accuracy.high - accuracy.value)]],
        )  # fmt: skip
    count = bundled.figures("cifar10-robust").published_examples
    axis.set_xlabel("attack ARA (RMSE), by the papers' own search")
    axis.set_ylabel("accuracy (%)")
    axis.set_title(
        f"Filled: bundled (ResNet-14, up to three hours of one core; CIFAR-10 (JPEG), ARA of up to {count} images)."
        "\nRings of the same colour: the published network of that kind (ResNet-44, 200 epochs).",
        fontsize=9,
        loc="left",
    )
    axis.legend(frameon=False, fontsize=9, loc="upper right")
    tidy(axis)
    saved(figure, out / "pareto.png")


def curves(out: Path, record: Path | None) -> None:
    """Accuracy against the size of the change: attacked, certified, and what Cohen et al. certified."""
    assert record is not None, "curves need --record FOLDER"
    rows = read_rows(record, "examples")
    figure, axis = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    for kind, ink in INK.items():
        mine = [row for row in rows if row["model"].removeprefix("cifar10-") == kind]
        axis.step(*curve([row["attack_rmse"] for row in mine]), color=ink, where="post", label=kind)
        certified = [row["certify_rmse"] for row in mine if row.get("certify_rmse") is not None]
        if certified:
            axis.step(*curve(certified), color=ink, where="post", linestyle=(0, (4, 2)))
    axis.plot([length / 3072**0.5 for length in COHEN], [100 * share for share in COHEN.values()], "kD",
              markersize=4.5, markerfacecolor="white", label="certified by Cohen et al. 2019 (ResNet-110)")  # fmt: skip
    axis.axhline(10, color="#999999", linewidth=0.8, linestyle=":")
    axis.text(0.0598, 10.8, "chance", ha="right", fontsize=8, color="#777777")
    axis.set_xlim(0, 0.06)
    axis.set_ylim(0, 100)
    axis.set_xlabel("size of the change (RMSE)")
    axis.set_ylabel("accuracy (%)")
    axis.set_title("Bundled networks, CIFAR-10 (JPEG). Solid: under attack; dashed: certified, of the\nnetwork "
                   "smoothed by noise.", fontsize=9, loc="left")  # fmt: skip
    axis.legend(frameon=False, fontsize=9)
    tidy(axis)
    saved(figure, out / "curves.png")


def curve(rmse: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """(radii, % still right beyond each): the share of examples whose radius is larger."""
    radii = np.sort(np.asarray(rmse))
    wrong = int(np.sum(radii == 0))
    left = 1 - np.arange(wrong, len(radii) + 1) / len(radii)
    return np.concatenate([[0.0], radii[wrong:]]), 100 * left


def tidy(axis: Any) -> None:
    """A light frame and grid."""
    axis.grid(color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def generated(out: Path, record: Path | None) -> None:
    """A line of seeds, and one of pictures for each network; the first of each class, nobody chose them."""
    from advex.data.seeds import seeds_of
    from advex.explanation.generation import GenerationRequest

    models = {kind: advex.load(f"builtin:cifar10-{kind}") for kind in KINDS}
    data = advex.open_dataset("cifar10", split="train")  # in ADVEX_DATA
    names = data.class_names
    seeds = torch.stack([seeds_of(data, name).draw(0, seed=0) for name in names])
    goal, search = advex.goals.Become(torch.arange(len(names))), GenerationRequest().search
    lines = {"seed": seeds} | {kind: search(model, seeds, goal).adversarial for kind, model in models.items()}
    figure, grid = plt.subplots(
        len(lines), len(names), figsize=(0.9 * len(names) + 0.9, 0.9 * len(lines) + 0.3),
        gridspec_kw={"wspace": 0.06, "hspace": 0.06, "left": 0.1, "right": 0.995, "top": 0.91, "bottom": 0.01},
    )  # fmt: skip
    for axes, (kind, pictures) in zip(grid, lines.items(), strict=True):
        for axis, picture in zip(axes, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).clamp(0, 1), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel(KINDS.get(kind, kind).replace(" ", "\n"), fontsize=9, rotation=0, ha="right", va="center")
    for axis, name in zip(grid[0], names, strict=True):
        axis.set_title(name, fontsize=9, pad=3)
    figure.savefig(out / "generated.png", dpi=100, facecolor="white", pil_kwargs={"optimize": True})
    plt.close(figure)
    print(out / "generated.png")


DRAWINGS = {"explanations": explanations, "photos": photos, "pareto": pareto, "curves": curves, "generated": generated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=DRAWINGS)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--record", type=Path, help="an evaluation of the four, for curves")
    args = parser.parse_args()
    for name in args.what:
        DRAWINGS[name](args.out, args.record)


if __name__ == "__main__":
    main()
