"""Pictures that show what would have to change, and what a classifier says of the 8-bit files that hold them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data.images.png import decode_png, encode_png
from advex.drawing.contact_sheet import SIDE, Cell, Legend, Row
from advex.errors import InputError, SpecError
from advex.explainers import Away, Toward
from advex.explanation.subjects import Subject, class_name, targets_of
from advex.files import write_bytes
from advex.geometry import RMSE, as_radius
from advex.registry import describe
from advex.types import FLAT, Explainer


def has_pictures(classifier: Classifier, shape: Sequence[int]) -> bool:
    """Whether inputs of a shape are grey or colour pictures in [0, 1], which a PNG can hold."""
    unit_box = bool((classifier.lower == 0).all() and (classifier.upper == 1).all())
    return unit_box and len(shape) == 3 and shape[0] in (1, 3)


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """Pictures as 8-bit PNG files hold them, and what a classifier says of these: one row each.

    png: the files. x: [n, channels, height, width] their content, in [0, 1]. rmse: [n] its distance from the unchanged
    picture. confidences: [n, classes].
    """

    png: tuple[bytes, ...]
    x: Tensor
    rmse: Tensor
    confidences: Tensor


def as_files(classifier: Classifier, clean: Tensor, pictures: Tensor, *, max_batch: int = 128) -> PictureFiles:
    """Encode changed pictures, decode them again, and ask the classifier about what the files hold.

    Rounding to 8 bits may undo a change: what is claimed of a picture that is shown must hold for its file.
    clean, pictures: [n, channels, height, width] in [0, 1]. Raises InputError for what a PNG cannot hold.
    """
    png = tuple(encode_png(picture) for picture in pictures)
    x = torch.stack([decode_png(encoded).to(clean) / 255 for encoded in png])
    return PictureFiles(png=png, x=x, rmse=RMSE.size(x - clean), confidences=classifier.predict(x, max_batch=max_batch))


@dataclass(frozen=True, kw_only=True)
class PictureExplanation:
    """Pictures changed for or against classes, one row each.

    x: [n, channels, height, width] the unchanged pictures. picture, change: like x, the changed ones, and by how much.
    target: [n] the classes. before, after: [n, classes] confidences at x and at the picture. rmse: [n]. method: the
    explainer's spec string. files: the changed pictures as PNG files hold them, and what is said of these. flat: see
    `Explanation`.
    """

    x: Tensor
    target: Tensor
    picture: Tensor
    change: Tensor
    before: Tensor
    after: Tensor
    rmse: Tensor
    method: str
    files: PictureFiles
    flat: Tensor | None = None


def explain_pictures(
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    explainer: Explainer | None = None,
    *,
    seed: int = 0,
    max_batch: int | str = 128,
) -> PictureExplanation:
    """What would have to change in pictures, as pictures, with what is said of the files that show them.

    x: [n, channels, height, width] in [0, 1]. target: [n] int64, a class for each. explainer: one that makes pictures,
    `Toward()` by default. max_batch: pictures at a time, or "auto". Raises InputError for inputs that are no pictures,
    SpecError for an explainer that makes none.
    """
    if not has_pictures(classifier, x.shape[1:]):
        raise InputError("Only pictures in [0, 1] with 1 or 3 channels can be shown.")
    explanation = (explainer or Toward())(classifier, x, target, seed=seed, max_batch=max_batch)
    picture, before, after = explanation.picture, explanation.before, explanation.after
    if picture is None or before is None or after is None:
        raise SpecError(f"{explanation.method} makes a heat map, not a picture; use toward or away.")
    change = explanation.map if torch.equal(x + explanation.map, picture) else picture - x
    files = as_files(classifier, x, picture, max_batch=max_batch if isinstance(max_batch, int) else 128)
    return PictureExplanation(
        x=x, target=target, picture=picture, change=change, before=before, after=after, rmse=RMSE.size(change),
        method=explanation.method, files=files, flat=explanation.flat,
    )  # fmt: skip


def difference_gain(*changes: Tensor) -> float:
    """By how much changes are multiplied to be seen, so that the largest of their values is half the scale."""
    return 0.5 / max(*(float(change.abs().max()) for change in changes), 1e-6)


def difference_picture(change: Tensor, gain: float) -> Tensor:
    """A change around grey, in [0, 1]."""
    return (0.5 + gain * change).clamp(0, 1)


# -- as files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """What to ask about every picture.

    targets: see `targets_of`. rhos: sizes of the change. away: what would lower the classes, not raise them. steps:
    gradients for each. max_batch: pictures at a time.
    """

    targets: tuple[str, ...] = ("predicted", "runner-up")
    rhos: tuple[float, ...] = (0.1,)
    away: bool = False
    steps: int = 35
    seed: int = 0
    max_batch: int | str = 128

    @property
    def side(self) -> int:
        """Pixels of a cell of the contact sheet, about."""
        return SIDE

    @property
    def legend(self) -> Legend:
        """The colours of the contact sheet, and what they mean."""
        return (((127, 127, 127), "no change, in a difference"),)

    def _explainer(self, rho: float) -> Toward | Away:
        return (Away if self.away else Toward)(rho=rho, steps=self.steps)

    @property
    def is_chosen(self) -> bool:
        """Whether the change is another than by default."""
        return (self.rhos, self.away, self.steps) != (PictureRequest.rhos, PictureRequest.away, PictureRequest.steps)

    @property
    def word(self) -> str:
        """The explainer's name."""
        return "away" if self.away else "toward"

    def about(self) -> dict[str, Any]:
        """What decides the answers, but for the targets, as `explanations.json` holds it."""
        methods = [describe(self._explainer(rho)) for rho in self.rhos]
        return {"explainer": self.word, "methods": methods, "seed": self.seed}

    def answer(
        self, classifier: Classifier, subject: Subject, confidences: Tensor, folder: Path, prefix: str
    ) -> dict[str, Any]:
        """Explain one picture, for all targets at every size, and write the files.

        confidences: [classes] of the picture. prefix: how the files' names begin. Raises InputError for an input that
        is no picture, SpecError for a target that is no class.
        """
        if not has_pictures(classifier, subject.x.shape):
            raise InputError(
                f"{subject.name} is not a picture in [0, 1] with 1 or 3 channels, and only those can be shown."
            )
        x = subject.x.to(classifier.device, classifier.dtype)[None]
        targets = targets_of(confidences, self.targets, classifier.class_names, subject)
        numbers = torch.tensor([target.number for target in targets], device=x.device)
        repeated = x.expand(len(targets), *x.shape[1:]).contiguous()
        explanations = {
            rho: explain_pictures(
                classifier, repeated, numbers, self._explainer(rho), seed=self.seed, max_batch=self.max_batch
            )
            for rho in self.rhos
        }
        stem = f"{prefix}.{self.word}"
        gain = difference_gain(*(each.change for each in explanations.values()))
        return {
            "picture": save_picture(folder / f"{prefix}.input.png", x[0]),
            "difference_gain": gain,
            "explanations": [
                {
                    "target": target.number,
                    "target_name": class_name(classifier, target.number),
                    "meant": list(target.meant),
                    "rho": rho,
                    "rmse": float(explanation.rmse[row]),
                    "before": confidences.tolist(),
                    "doubts": [FLAT] if explanation.flat is not None and explanation.flat[row] else [],
                    **_written(classifier, explanation, row, gain, folder, f"{stem}-{target.number}.rho{rho:g}"),
                }
                for rho, explanation in explanations.items()
                for row, target in enumerate(targets)
            ],
        }

    def sheet_rows(self, answer: dict[str, Any], folder: Path) -> list[Row]:
        """A row of the contact sheet for each size: the input, then each changed picture and its difference."""
        says, share = answer["says"], 100 * max(answer["confidences"])
        first = Cell(((folder / answer["picture"]).read_bytes(),), (answer["name"], f"says {says}", f"{share:.1f} %"))
        rows: dict[float, list[Cell]] = {}
        for explanation in answer["explanations"]:
            before, after = (100 * explanation[key][explanation["target"]] for key in ("before", "after"))
            way = f"{'away from' if self.away else 'toward'} {explanation['target_name']}"
            gain, rmse = answer["difference_gain"], explanation["rmse"]
            change = (f"difference x {gain:.2g}", f"RMSE {rmse:.4f}")
            if explanation["doubts"]:
                change = ("no gradient reached", "the input: no change")
            changed, difference = ((folder / explanation[key]).read_bytes() for key in ("picture", "difference"))
            cells = rows.setdefault(explanation["rho"], [first])
            cells.append(Cell((changed,), (way, f"{before:.1f} → {after:.1f} %")))
            cells.append(Cell((difference,), change))
        return [Row(tuple(cells)) for cells in rows.values()]


def _written(
    classifier: Classifier, explanation: PictureExplanation, row: int, gain: float, folder: Path, stem: str
) -> dict[str, Any]:
    """Write one changed picture and its difference; returns their names, and what is said of the picture's file."""
    files = explanation.files
    write_bytes(folder / f"{stem}.png", files.png[row])
    return {
        "after": explanation.after[row].tolist(),
        "says": class_name(classifier, int(explanation.after[row].argmax())),
        "picture": f"{stem}.png",
        "difference": save_picture(
            folder / f"{stem}.difference.png", difference_picture(explanation.change[row], gain)
        ),
        "png": {
            "rmse": float(files.rmse[row]),
            "after": files.confidences[row].tolist(),
            "says": class_name(classifier, int(files.confidences[row].argmax())),
        },
    }


def save_picture(path: Path, picture: Tensor) -> str:
    """Write a picture [channels, height, width] in [0, 1] as a PNG; returns the name of the file."""
    write_bytes(path, encode_png(picture.detach().float()))
    return path.name


def rhos_from(text: str) -> tuple[float, ...]:
    """`0.1,8/255` -> radii in (0, 1]. Raises SpecError."""
    with contextlib.suppress(SpecError):
        rhos = tuple(as_radius(part) for part in text.split(","))
        if all(0 < rho <= 1 for rho in rhos):
            return rhos
    raise SpecError(f"--rho '{text}': an RMSE must be above 0 and at most 1 (black to white), such as 0.1 or 8/255.")


def max_batch_from(text: str) -> int | str:
    """`auto`, or a number of inputs of at least 1. Raises SpecError."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise SpecError(f"--max-batch '{text}' must be 'auto' or a whole number of at least 1.")
    return int(text)
