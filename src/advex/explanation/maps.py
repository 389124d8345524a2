"""Maps of how much each element of an input counts for a class, with the files that show and hold them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advex import explainers, measures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.data.images.png import decode_png, encode_png
from advex.drawing import heat
from advex.drawing.contact_sheet import Cell, Legend, Row
from advex.drawing.heat import PERCENTILE, coloured, over, reach_of, summed
from advex.errors import AdvexError, AdvexWarning, InputError, SpecError
from advex.explainers.background import with_background
from advex.explanation import attacked
from advex.explanation.attacked import Attacked, caption
from advex.explanation.pictures import has_pictures, save_picture
from advex.explanation.subjects import Subject, Target, class_name, targets_of
from advex.files import atomic
from advex.measures.ifia import PUBLISHED_SEARCH
from advex.record import plain
from advex.registry import describe, numbered, parse
from advex.types import FLAT, INCOMPLETE, Explainer, Explanation

SIDE = 160  # pixels of a map on a contact sheet, about
_SHOWN = 256  # pixels of the longer side of a map's own file, at least about


def named_explainers(specs: Sequence[str]) -> dict[str, Explainer]:
    """Explainers by spec strings, each under a name of its own: `gradient`, `gradient-2`, ...

    Raises SpecError for specs that are unknown, and for two of the same explainer.
    """
    built = [explainers.build(spec) for spec in specs]
    methods = [describe(explainer) for explainer in built]
    for method in methods:
        if methods.count(method) > 1:
            raise SpecError(f"The explainer '{method}' is given twice.")
    return dict(zip(numbered([parse(spec)[0] for spec in specs]), built, strict=True))


@dataclass(frozen=True, kw_only=True)
class Maps:
    """explanations: what each explainer gives, by its name. refused: why others have no map of this network."""

    explanations: Mapping[str, Explanation]
    refused: Mapping[str, AdvexError]


def explain_maps(
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    by_name: Mapping[str, Explainer],
    *,
    seed: int = 0,
    max_batch: int | str = 128,
) -> Maps:
    """The maps of some inputs by several explainers; one that does not fit the network does not lose the others.

    x: [n, *shape]. target: [n] int64, a class for each.
    """
    explanations: dict[str, Explanation] = {}
    refused: dict[str, AdvexError] = {}
    for name, explainer in by_name.items():
        try:
            explanation = explainer(classifier, x, target, seed=seed, max_batch=max_batch)
            if not explanation.map.isfinite().all():
                raise InputError("The map is not finite: the network's output or its gradient is NaN or infinite.")
            explanations[name] = explanation
        except AdvexError as error:
            refused[name] = error
    return Maps(explanations=explanations, refused=refused)


# -- colours -----------------------------------------------------------------------------------------------


def pixels_of(explanation: Explanation) -> list[np.ndarray]:
    """[height, width] for each row: the map's values, summed over the channels."""
    return [summed(values) for values in explanation.map.detach().cpu().numpy()]


@dataclass(frozen=True)
class HeatScale:
    """The symmetric scale of colours of some explainers' maps. reach: the value of the strongest colour."""

    reach: float
    shared: tuple[str, ...]

    @classmethod
    def of(cls, explanations: Mapping[str, Explanation]) -> HeatScale:
        """The one that all these maps fit on: see `drawing.heat.reach_of`."""
        maps = [pixels for explanation in explanations.values() for pixels in pixels_of(explanation)]
        return cls(reach_of(maps), tuple(explanations))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"reach": self.reach, "percentile": PERCENTILE, "channels": "summed", "explainers": list(self.shared)}


def heat_scales(explanations: Mapping[str, Explanation], by_name: Mapping[str, Explainer]) -> dict[str, HeatScale]:
    """A scale for each explainer's maps of one input.

    Maps that add up to a change of one and the same output are in its unit and share one scale; any other explainer's
    maps can be compared among each other alone.
    """
    units: dict[object, dict[str, Explanation]] = {}
    for name, explanation in explanations.items():
        sums = explanation.completeness is not None
        unit = ("sums", getattr(by_name[name], "of", None)) if sums else name
        units.setdefault(unit, {})[name] = explanation
    return {name: scale for group in units.values() for scale in [HeatScale.of(group)] for name in group}


# -- as files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MapRequest:
    """What to ask about every input. targets: see `targets_of`. explainers: by name, see `named_explainers`.

    data: of which explainers that compare with many inputs take some. attack: also the maps after the change of the
    picture that moves them most, see `explanation.attacked`.
    """

    targets: tuple[str, ...] = ("predicted",)
    explainers: Mapping[str, Explainer]
    seed: int = 0
    max_batch: int | str = 128
    data: Dataset | None = None
    attack: bool = False

    @property
    def side(self) -> int:
        """Pixels of a cell of the contact sheet, about."""
        return SIDE

    @property
    def legend(self) -> Legend:
        """The colours of the contact sheet, and what they mean."""
        return heat.legend()

    def about(self) -> dict[str, Any]:
        """What decides the answers, but for the targets, as `explanations.json` holds it."""
        methods = {name: describe(explainer) for name, explainer in self.explainers.items()}
        attack = {"attack": PUBLISHED_SEARCH} if self.attack else {}
        return {"explainers": methods, "seed": self.seed, "max_batch": self.max_batch, **attack}

    def answer(
        self, classifier: Classifier, subject: Subject, confidences: Tensor, folder: Path, prefix: str
    ) -> dict[str, Any]:
        """Map one input, for all targets by every explainer, and write the files.

        confidences: [classes] of the input. prefix: how the files' names begin. Raises SpecError for a target that is
        no class, and the first explainer's error where none of them fits the network.
        """
        x = subject.x.to(classifier.device, classifier.dtype)[None]
        targets = targets_of(confidences, self.targets, classifier.class_names, subject)
        numbers = torch.tensor([target.number for target in targets], device=x.device)
        repeated = x.expand(len(targets), *x.shape[1:]).contiguous()
        by_name = {name: with_background(each, self.data, self.seed) for name, each in self.explainers.items()}
        maps = explain_maps(classifier, repeated, numbers, by_name, seed=self.seed, max_batch=self.max_batch)
        if not maps.explanations:
            raise next(iter(maps.refused.values()))
        for name, error in maps.refused.items():
            warnings.warn(f"{error} (The explainer {name} is left out.)", AdvexWarning, stacklevel=2)
        explanations = maps.explanations
        pictured = has_pictures(classifier, subject.x.shape)
        measured = [
            _measured(classifier, name, explanation, row, target)
            for row, target in enumerate(targets)
            for name, explanation in explanations.items()
        ]
        if pictured:
            scales = heat_scales(explanations, self.explainers)
            _draw(measured, subject.x, explanations, scales, folder, prefix)
            if self.attack:
                for name, explanation in explanations.items():
                    moved = attacked.attack(
                        classifier, repeated, explanation, by_name[name], seed=self.seed, max_batch=self.max_batch
                    )
                    _draw_attacked([each for each in measured if each["explainer"] == name], moved, classifier, folder)
        refused = {name: str(error) for name, error in maps.refused.items()}
        return {
            "picture": save_picture(folder / f"{prefix}.input.png", x[0]) if pictured else None,
            "values": _save_values(folder / f"{prefix}.maps.npz", x[0], explanations, targets),
            "maps": measured,
            **({"refused": refused} if refused else {}),
        }

    def sheet_rows(self, answer: dict[str, Any], folder: Path) -> list[Row]:
        """A row of the contact sheet for each target: the input, then each explainer's map."""
        if answer["picture"] is None:
            return []
        x = (folder / answer["picture"]).read_bytes()
        by_target: dict[int, list[dict[str, Any]]] = {}
        for each in answer["maps"]:
            by_target.setdefault(each["target"], []).append(each)
        rows = []
        for target, maps in by_target.items():
            share, says = 100 * answer["confidences"][target], 100 * max(answer["confidences"])
            lines = (
                answer["name"],
                f"says {answer['says']}, {says:.1f} %",
                f"asked: {maps[0]['target_name']}",
                f"{share:.1f} % ({', '.join(maps[0]['meant'])})",
            )
            cells = [cell for each in maps for cell in _cells(each, folder, x)]
            rows.append(Row((Cell((x,), lines), *cells)))
        return rows


def _measured(classifier: Classifier, name: str, explanation: Explanation, row: int, target: Target) -> dict[str, Any]:
    """What is known of one map. completeness: by how much it adds up to more than it is meant to."""
    values = explanation.map[row : row + 1].detach().double()
    entropy = measures.entropy(values)
    return {
        "explainer": name,
        "method": explanation.method_of(row),
        "target": target.number,
        "target_name": class_name(classifier, target.number),
        "meant": list(target.meant),
        "gini": plain(float(measures.gini(values))),
        "entropy": plain(float(entropy)),
        "effective": plain(float(entropy.exp())),
        "elements": values.numel(),
        "sum": float(values[0].sum()),
        "completeness": None if explanation.completeness is None else plain(float(explanation.completeness[row])),
        "doubts": [words for words, rows in explanation.doubts().items() if rows[row]],
    }


def _save_values(path: Path, x: Tensor, explanations: Mapping[str, Explanation], targets: Sequence[Target]) -> str:
    """All maps of an input as EXPLAINER.CLASS in one NPZ file, beside the input itself."""
    arrays = {
        f"{name}.{target.number}": explanation.map[row].detach().cpu().numpy()
        for name, explanation in explanations.items()
        for row, target in enumerate(targets)
    }
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, input=x.cpu().numpy(), **arrays)  # pyright: ignore[reportArgumentType]
    return path.name


def _draw(
    measured: Sequence[dict[str, Any]], x: Tensor, explanations: Mapping[str, Explanation],
    scales: Mapping[str, HeatScale], folder: Path, prefix: str,
) -> None:  # fmt: skip
    """Save the pictures of all maps, target by target, and note them beside what was measured."""
    pixels = {name: pixels_of(explanation) for name, explanation in explanations.items()}
    for number, each in enumerate(measured):
        name, values = each["explainer"], pixels[each["explainer"]][number // len(explanations)]
        scale, stem = scales[name], f"{prefix}.{name}.{each['target']}"
        each["scale"] = scale.plain()
        each["picture"] = _save_enlarged(folder / f"{stem}.png", coloured(values, scale.reach))
        each["overlay"] = _save_enlarged(folder / f"{stem}.over.png", over(x.numpy(), values, scale.reach))


def _draw_attacked(maps: Sequence[dict[str, Any]], moved: Attacked, classifier: Classifier, folder: Path) -> None:
    """Save the attacked pictures and their maps, on the scale of the maps before, and note them beside these."""
    for row, each in enumerate(maps):
        stem = each["picture"].removesuffix(".png")
        shown = coloured(summed(moved.map[row].cpu().numpy()), each["scale"]["reach"])
        each["attacked"] = {
            **moved.plain(row, classifier),
            "picture": save_picture(folder / f"{stem}.attacked.png", moved.x[row]),
            "map": {"picture": _save_enlarged(folder / f"{stem}.attacked.map.png", shown)},
        }


def _cells(each: dict[str, Any], folder: Path, x: bytes) -> list[Cell]:
    """A map, and after an attack on it the picture and the map then."""
    cells = [Cell((_shrunk(folder / each["picture"], x),), _lines(each))]
    if (after := each.get("attacked")) is not None:
        cells.append(Cell(((folder / after["picture"]).read_bytes(),), ("attacked", f"says {after['says']}")))
        cells.append(Cell((_shrunk(folder / after["map"]["picture"], x),), caption(after)))
    return cells


def _lines(each: dict[str, Any]) -> tuple[str, ...]:
    """What is written below a map."""
    if FLAT in each["doubts"]:
        return (each["explainer"], "no gradient reached", "the input: this is", "no explanation")
    reach, error = each["scale"]["reach"], each["completeness"]
    scale = f"±{reach:.2g} ({PERCENTILE}th perc.)" if reach else "nothing counts"
    sums = (
        ()
        if error is None
        else (f"sum {each['sum']:+.3g}, off by {abs(error):.1g}{'!' * (INCOMPLETE in each['doubts'])}",)
    )
    return (each["explainer"], f"Gini {each['gini']:.3f}", scale, *sums)


def _save_enlarged(path: Path, pixels: np.ndarray) -> str:
    """A PNG of uint8 [height, width, 3], small pictures enlarged by a whole factor; returns its name."""
    image = Image.fromarray(pixels)
    times = max(round(_SHOWN / max(image.size)), 1)
    with atomic(path) as temporary:
        image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(temporary, "PNG")
    return path.name


def _shrunk(path: Path, x: bytes) -> bytes:
    """The PNG of an enlarged map, in the size of its input's PNG again."""
    picture, size = decode_png(path.read_bytes()), decode_png(x).shape
    times = picture.shape[-1] // size[-1]
    return encode_png(picture[:, ::times, ::times])
