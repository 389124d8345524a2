"""Boxes from maps.

`python -m benchmarks.localisation`: CPU milliseconds for the boxes of one map at all 250 thresholds.
`python -m benchmarks.localisation RECORD...`: what `advex judge --judges localisation,...` of one network each left in
record folders, in one table; the first network is the one that the others are compared with, picture by picture.
`--sheet FILE RUN...`: the first pictures of tiny-imagenet-20's test split with the boxes of runs' maps.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy import ndimage

import advex
from advex import registry
from advex.drawing.contact_sheet import Cell, Row, draw
from advex.drawing.heat import framed, over, reach_of
from advex.drawing.pictures import encoded
from advex.evaluation.scores import rate
from advex.measures import bootstrap_mean
from advex.measures.boxes import overlaps
from advex.measures.case import Case
from advex.measures.localisation import Localisation
from advex.record import read_record, read_rows


def times(side: int = 64, rounds: int = 50) -> None:
    """Prints the least and the median of some rounds for maps that are smooth, noise, or few peaks."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((side, side))
    maps = {"smooth": ndimage.gaussian_filter(noise, 3), "noise": np.abs(noise), "peaks": np.abs(noise) ** 3}
    truth = np.array([[10, 10, 40, 30]])
    for name, values in maps.items():
        for components in ("largest", "all"):
            measure, seconds = Localisation(rule="best", components=components), []
            for _ in range(rounds):
                start = time.process_time()
                unit = measure._unit(values)
                assert unit is not None
                overlaps(unit, measure._thresholds(unit), truth, every=components == "all")
                seconds.append(time.process_time() - start)
            print(f"{name}, {components}: {1000 * min(seconds):.1f} ms at least, {1000 * median(seconds):.1f} median")


def _values(rows: Sequence[dict[str, Any]], explainer: str, key: str) -> torch.Tensor:
    mine = sorted((row for row in rows if row["explainer"] == explainer), key=lambda row: row["example"])
    return torch.tensor([math.nan if row[key] is None else row[key] for row in mine], dtype=torch.float64)


def _share(values: torch.Tensor) -> str:
    figure = rate(values, "high")
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def _points(values: torch.Tensor) -> str:
    value, low, high = bootstrap_mean(values, seed=0)
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def table(records: Sequence[Path]) -> None:
    """Prints a line per explainer and network. Measures: thresholds of other pictures, of the same, MaxBoxAcc V2."""
    names = [read_record(folder).models[0].name for folder in records]
    all_rows = [read_rows(folder, "maps") for folder in records]
    explainers = list(dict.fromkeys(row["explainer"] for row in all_rows[0]))
    print(
        "| maps | network | GT-Known | Top-1 | mean IoU | MaxBoxAcc | V2 | beyond the best centred box | where that "
        f"misses | less {names[0]} | the same, where the box misses |\n|---|---|---|---|--:|--:|--:|---|---|---|---|"
    )
    for explainer in explainers:
        for name, rows in zip(names, all_rows, strict=True):
            hits, box = (_values(rows, explainer, key) for key in ("localisation", "localisation_constant_box"))
            first = _values(all_rows[0], explainer, "localisation")
            means = [
                _values(rows, explainer, key).nanmean()
                for key in ("localisation_iou", "localisation-2", "localisation-3")
            ]
            cells = [
                _share(hits), _share(_values(rows, explainer, "localisation_top1")), f"{means[0]:.3f}",
                *(f"{100 * mean:.1f}" for mean in means[1:]), _points(hits - box), _share(hits[box == 0]),
                *(("", "") if name == names[0] else (_points(hits - first), _points((hits - first)[box == 0]))),
            ]  # fmt: skip
            print(f"| {explainer} | {name} | {' | '.join(cells)} |")
    rows = all_rows[0]
    box, whole = (_values(rows, explainers[0], f"localisation_{key}") for key in ("constant_box", "whole_picture"))
    print(
        f"\nbest centred box {_share(box)}, whole picture {_share(whole)}; {int((box == 0).sum())} of {len(box)} missed"
    )
    for name, folder in zip(names, records, strict=True):
        print(name, "accuracy", read_record(folder).models[0].scores["accuracy"])


def sheet(path: Path, runs: Sequence[str], *, pictures: int = 4, of: int = 100) -> None:
    """The thing's box is white, that of the map black; its threshold is the one with most hits on the first `of`."""
    data = advex.open_dataset("tiny-imagenet-20", split="test", max_samples=of, seed=0, size=(32, 32))
    batch, lines = data.batch(slice(None)), [[] for _ in range(pictures)]
    assert data.evidence is not None
    truths = [each.numpy() for each in data.evidence.boxes]
    for i, cells in enumerate(lines):
        cells.append(Cell((_framed(batch.x[i], None, truths[i], None),), (data.class_names[int(batch.y[i])],)))
    for run in runs:
        classifier = advex.load(run)
        for spec in ("gradient", "cam"):
            explainer: Any = registry.build("explainer", spec)
            explanation = explainer(classifier, batch.x, batch.y, max_batch=64)
            measure = Localisation(channels="sum_abs", smooth="mean", chosen_on="same")
            measured = measure(
                Case(classifier=classifier, explainer=explainer, explanation=explanation, x=batch.x, y=batch.y,
                     evidence=data.evidence, seed=0)
            )  # fmt: skip
            assert measured.parts is not None
            for i, cells in enumerate(lines):
                values = explanation.map[i].detach().abs().sum(dim=0).numpy()
                box = measure.box_of(measured.parts, i, explanation.map[i : i + 1], data.evidence.boxes[i])
                words = (Path(run).name.partition("-")[0], spec, f"IoU {float(measured.values['iou'][i]):.2f}")
                cells.append(Cell((_framed(batch.x[i], values, truths[i], box),), words))
    draw([Row(tuple(cells)) for cells in lines], side=160).save(path)


def _framed(x: torch.Tensor, values: np.ndarray | None, truth: np.ndarray, box: Sequence[int] | None) -> bytes:
    """A picture, or the map over it, enlarged, with boxes."""
    picture = x.numpy()
    plain = np.rint(255 * picture.transpose(1, 2, 0)).astype(np.uint8)
    pixels = plain if values is None else over(picture, values, reach_of([values]))
    boxes = [(each, 255) for each in truth] + ([] if box is None else [(box, 0)])
    return encoded(framed(pixels, boxes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    if asked.sheet:
        sheet(asked.sheet, asked.folders)
    elif asked.folders:
        table([Path(each) for each in asked.folders])
    else:
        times()
