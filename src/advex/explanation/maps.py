"""Maps of single inputs: how much each element counts for a class, with the files that show and hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advex import progress
from advex._version import __version__
from advex.classifier import Classifier
from advex.drawing.heat import PERCENTILE, coloured, over, reach_of, summed
from advex.environment import without_places
from advex.evaluation.pictures import has_pictures
from advex.evaluation.plan import MapTask
from advex.explanation import contact_sheet
from advex.explanation.pictures import FIGURES, Subject, Target, class_name, file_names, save_picture, targets_of
from advex.files import atomic, write_text
from advex.lookup.models import Opened
from advex.measures import effective_features, entropy, gini
from advex.record import plain
from advex.registry import describe
from advex.types import Explanation

SIDE = 160  # pixels of a map on a contact_sheet, about
_SHOWN = 256  # pixels of the longer side of a map's own file, at least about


@dataclass(frozen=True, kw_only=True)
class MapRequest:
    """What to ask of every input. targets: see `explaining.targets_of`."""

    targets: tuple[str, ...]
    explainers: tuple[MapTask, ...]
    seed: int = 0
    max_batch: int | str = 128


@dataclass(frozen=True)
class HeatScale:
    """The symmetric scale of the maps of some explainers, those whose values are of one unit. reach: see `reach_of`."""

    reach: float
    shared: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"reach": self.reach, "percentile": PERCENTILE, "channels": "summed", "explainers": list(self.shared)}


def explain(
    asked: MapRequest, model: Opened, subjects: list[Subject], folder: Path, say: progress.Terminal
) -> dict[str, Any]:
    """Map every input; write values, pictures, contact sheets and `explanations.json`; returns what that file holds."""
    answers, rows = [], []
    prefixes = file_names([subject.name for subject in subjects])
    with say.progress(f"explain with {model.name}") as bar:
        for number, (subject, prefix) in enumerate(zip(subjects, prefixes, strict=True), start=1):
            answer, drawn = _explain_one(model.classifier, subject, asked, folder, prefix)
            answers.append(answer)
            rows += drawn
            bar(number, len(subjects))
    names = model.classifier.class_names
    result = {
        "advex": __version__,
        "command": without_places(progress.command_line()),
        "model": model.name,
        "source": without_places(model.source),
        "class_names": None if names is None else list(names),
        "explainers": {question.name: describe(question.explainer) for question in asked.explainers},
        "seed": asked.seed,
        "max_batch": asked.max_batch,
        "inputs": answers,
        "sheets": [path.name for path in contact_sheet.write(rows, folder, side=SIDE)],
    }
    write_text(folder / FIGURES, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _explain_one(
    classifier: Classifier, subject: Subject, asked: MapRequest, folder: Path, prefix: str
) -> tuple[dict[str, Any], list[contact_sheet.Row]]:
    """One input: all targets by every explainer."""
    x = subject.x.to(classifier.device, classifier.dtype)[None]
    confidences = classifier.predict(x)[0]
    targets = targets_of(confidences, asked.targets, classifier.class_names, subject)
    wanted = torch.tensor([target.number for target in targets], device=x.device)
    repeated = x.expand(len(targets), *x.shape[1:]).contiguous()
    found = {
        one.name: one.explainer(classifier, repeated, wanted, seed=asked.seed, max_batch=asked.max_batch)
        for one in asked.explainers
    }
    pictured = has_pictures(classifier, subject.x.shape)
    answer: dict[str, Any] = {
        "name": subject.name,
        "label": subject.label,
        "note": subject.note,
        "says": class_name(classifier, int(confidences.argmax())),
        "confidences": confidences.tolist(),
        "picture": save_picture(folder / f"{prefix}.input.png", x[0])[0] if pictured else None,
        "values": _save_values(folder / f"{prefix}.maps.npz", x[0], found, targets),
        "maps": [
            _measured(classifier, name, one, row, target)
            for row, target in enumerate(targets)
            for name, one in found.items()
        ],
    }
    if not pictured:
        return answer, []
    return answer, _draw(answer, subject.x, found, _scales(found, asked), folder, prefix)


def _measured(classifier: Classifier, name: str, found: Explanation, row: int, target: Target) -> dict[str, Any]:
    """What is known of one map. completeness: by how much it adds up to more than it is meant to."""
    values = found.map[row : row + 1].detach().double()
    return {
        "explainer": name,
        "method": found.method,
        "target": target.number,
        "target_name": class_name(classifier, target.number),
        "meant": list(target.meant),
        "gini": plain(float(gini(values))),
        "entropy": plain(float(entropy(values))),
        "effective": plain(float(effective_features(values))),
        "elements": found.map[row].numel(),
        "sum": float(found.map[row].detach().double().sum()),
        "completeness": None if found.completeness is None else plain(float(found.completeness[row])),
    }


def _save_values(path: Path, x: Tensor, found: Mapping[str, Explanation], targets: Sequence[Target]) -> str:
    """All maps of an input as EXPLAINER.CLASS in one NPZ file, beside the input itself."""
    arrays = {
        f"{name}.{target.number}": one.map[row].detach().cpu().numpy()
        for name, one in found.items()
        for row, target in enumerate(targets)
    }
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, input=x.cpu().numpy(), **arrays)  # pyright: ignore[reportArgumentType]
    return path.name


# -- pictures ----------------------------------------------------------------------------------------------


def _pixels(found: Explanation, row: int) -> np.ndarray:
    """[height, width]: a map's values, summed over the channels."""
    return summed(found.map[row].detach().cpu().numpy())


def _scales(found: Mapping[str, Explanation], asked: MapRequest) -> dict[str, HeatScale]:
    """A scale for each explainer's maps of one input.

    Maps that add up to a change of one and the same output are in its unit and share one scale; any other explainer's
    maps can be compared among each other alone.
    """
    units: dict[object, list[str]] = {}
    for one in asked.explainers:
        sums = found[one.name].completeness is not None
        units.setdefault(("sums", getattr(one.explainer, "of", None)) if sums else one.name, []).append(one.name)
    scales = {}
    for names in units.values():
        maps = [_pixels(found[name], row) for name in names for row in range(len(found[name]))]
        scales |= dict.fromkeys(names, HeatScale(reach_of(maps), tuple(names)))
    return scales


def _draw(
    answer: dict[str, Any], x: Tensor, found: Mapping[str, Explanation], scales: Mapping[str, HeatScale],
    folder: Path, prefix: str,
) -> list[contact_sheet.Row]:  # fmt: skip
    """Save the pictures of all maps and note them in the answer; returns a row of the sheet for each target."""
    rows = []
    confidences, per_row = answer["confidences"], len(found)
    for row, start in enumerate(range(0, len(answer["maps"]), per_row)):
        cells = []
        for one in answer["maps"][start : start + per_row]:
            pixels, scale = _pixels(found[one["explainer"]], row), scales[one["explainer"]]
            heat = coloured(pixels, scale.reach)
            stem = f"{prefix}.{one['explainer']}.{one['target']}"
            one["scale"] = scale.plain()
            one["picture"] = _save_enlarged(folder / f"{stem}.png", heat)
            one["overlay"] = _save_enlarged(folder / f"{stem}.over.png", over(x.numpy(), pixels, scale.reach))
            cells.append(contact_sheet.Cell(torch.from_numpy(heat / 255).permute(2, 0, 1), _lines(one)))
        asked = answer["maps"][start]
        share = 100 * confidences[asked["target"]]
        lines = (
            answer["name"],
            f"says {answer['says']}, {100 * max(confidences):.1f} %",
            f"asked: {asked['target_name']}",
            f"{share:.1f} % ({', '.join(asked['meant'])})",
        )
        rows.append(contact_sheet.Row(contact_sheet.Cell(x, lines), tuple(cells)))
    return rows


def _lines(one: dict[str, Any]) -> tuple[str, ...]:
    """What is written below a map."""
    reach = one["scale"]["reach"]
    told = f"±{reach:.2g} ({PERCENTILE}th perc.)" if reach else "nothing counts"
    error = one["completeness"]
    sums = () if error is None else (f"sum {one['sum']:+.3g}, off by {abs(error):.1g}",)
    return (one["explainer"], f"Gini {one['gini']:.3f}", told, *sums)


def _save_enlarged(path: Path, pixels: np.ndarray) -> str:
    """A PNG of uint8 [height, width, 3], small pictures enlarged by a whole factor; returns its name."""
    image = Image.fromarray(pixels)
    times = max(round(_SHOWN / max(image.size)), 1)
    with atomic(path) as temporary:
        image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(temporary, "PNG")
    return path.name
