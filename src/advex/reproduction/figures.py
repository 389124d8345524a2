"""A paper's plots as SVG, its grids, maps and judged images as PNG, of reproduction.json and the records beside it."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advex.distances import Kendall, TopK
from advex.drawing.boxes import WHISKERS, box_plot, common_axis
from advex.drawing.contact_sheet import Cell, Row, draw
from advex.drawing.heat import coloured, framed, reach_of, summed
from advex.drawing.pictures import encoded, picture_of, read_picture
from advex.drawing.svg import box_file, scatter_file
from advex.files import atomic
from advex.measures.ifia import largest_pixels
from advex.record.generated import SHEET
from advex.record.reproduction import AnsweredEntry, GridEntry, JudgedEntry, Reproduction
from advex.report.mapped import first_measure, places_of, value_of
from advex.report.pages.answers import VERDICTS, sentences
from advex.report.pages.joined_records import joined, mapped_rows, shown_rows
from advex.report.pages.reproduction import scatters
from advex.report.reading import Contents, read
from advex.report.sections.maps import gains
from advex.reproduction.folder import FIGURES

_EXAMPLES = 3  # images in a grid
_MAPPED = 5  # pictures in a sheet of maps
_LED = 2  # pictures by each explainer in a sheet of maps that were led
_TARGETS = 10  # classes in a grid
_BOX = f"Box: the middle half; whiskers at {WHISKERS[0]} and {WHISKERS[1]} %; dot: the mean"
_PAIRS, _LINES = 5, 2  # judged pairs in a line, and lines of a verdict


def write_figures(folder: Path, reproduction: Reproduction) -> list[Path]:
    """Write every figure that something was measured for; returns the files, `figures/ID.svg` and `figures/ID.png`."""
    paths = []
    for name, content in _figures(folder, reproduction):
        path = folder / FIGURES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(content)
        paths.append(path)
    return paths


def _figures(folder: Path, reproduction: Reproduction) -> Iterator[tuple[str, bytes]]:
    of = f"{reproduction.paper}, scale {reproduction.scale}"
    for entry, plot in scatters(reproduction):
        tables = " and ".join(f"Table {name}" for name in entry.tables)
        key = f"Hollow: published. Filled: measured at scale {reproduction.scale}, with 95 % intervals."
        yield f"{entry.id}.svg", scatter_file(plot, [f"{entry.title}: {reproduction.paper}, {tables}", key]).encode()
    for grid in reproduction.grids:
        contents = joined(folder, reproduction, shown_rows(reproduction, grid))
        if contents is not None and any(row["picture"] for row in contents.rows("explanations")):
            yield f"{grid.id}.png", _grid(contents, grid, of)
    for answered in reproduction.answered:
        if rows := list(_judged(folder, answered)):
            yield f"answers-{answered.network}.png", _sheet(rows, textwrap.fill(sentences(answered)[0], 160))
    joint = [(entry, joined(folder, reproduction, mapped_rows(reproduction, entry))) for entry in reproduction.maps]
    known = [(entry, contents) for entry, contents in joint if contents is not None and contents.rows("maps")]
    if figure := _gains([contents for _, contents in known], of):
        yield "gains.svg", figure.encode()
    for entry, contents in known:
        if rows := _maps(contents):
            yield f"maps-{entry.id}.png", _sheet(rows, f"{entry.title}: {of}")
        for key in entry.boxes:
            if figure := _boxes(contents, key, of):
                yield f"boxes-{entry.id}-{key}.svg", figure.encode()
        if rows := list(_manipulated(contents)):
            yield f"manipulated-{entry.id}.png", _sheet(rows, f"{entry.title}, led towards a map: {of}")
    for record in dict.fromkeys(row.together for row in reproduction.rows if row.together):
        if (folder / record / "record.json").is_file() and (rows := list(_masks(read(folder / record)))):
            name = Path(record).name.removeprefix("table-")
            yield f"masks-{name}.png", _sheet(rows, f"Where maps are strong, and the thing's outline: {of}")
    for extra in reproduction.extras:
        if (sheet := folder / extra.record / SHEET).is_file():
            yield f"{extra.id}.png", sheet.read_bytes()


def _sheet(rows: Sequence[Row], title: str) -> bytes:
    image = io.BytesIO()
    draw(rows, title=title).save(image, "PNG")
    return image.getvalue()


def _picture(contents: Contents, row: dict[str, Any] | None) -> tuple[bytes, ...]:
    picture = None if row is None else read_picture(contents.folder, row["picture"])
    return () if picture is None else (picture.png,)


def _grid(contents: Contents, grid: GridEntry, of: str) -> bytes:
    """A line per image and network: the input, towards each class, away from the label."""
    explained = [row for row in contents.rows("explanations") if row["purpose"] == "grid"]
    at = {(row["example"], row["model"], row["explainer"], row["target"]): row for row in explained}
    inputs = {(row["model"], row["example"]): row for row in contents.rows("examples") if row["picture"]}
    labels = {example: row["label"] for (_, example), row in inputs.items()}
    examples = list(dict.fromkeys(row["example"] for row in explained))[:_EXAMPLES]
    each = [{target for row, _, name, target in at if (row, name) == (example, "toward")} for example in examples]
    targets = sorted(set.intersection(*each) if each else set())[:_TARGETS]
    rows = []
    for example in examples:
        for model in (model.name for model in contents.record.models):
            cells = [Cell(_picture(contents, inputs.get((model, example))), (model,))]
            for target in targets:
                changed = at.get((example, model, "toward", target))
                cells.append(Cell(_picture(contents, changed), (f"to {contents.class_name(target)}",)))
            changed = at.get((example, model, "away", labels.get(example)))
            rows.append(Row((*cells, Cell(_picture(contents, changed), ("from label",)))))
    rho = explained[0]["rho"] if explained else 0.0
    return _sheet(rows, f"{grid.title}: {of}; each change has an RMSE of {rho:g}")


def _judged(folder: Path, entry: AnsweredEntry) -> Iterator[Row]:
    """Some pairs of each verdict, the original beside the changed one: after Woods et al. 2019, Fig. S5."""
    for verdict, title in VERDICTS.items():
        mine = [pair for pair in entry.pairs if pair.verdict == verdict][: _PAIRS * _LINES]
        for start in range(0, len(mine), _PAIRS):
            cells = tuple(_pair(folder, pair) for pair in mine[start : start + _PAIRS])
            yield Row(cells, "" if start else title)


def _pair(folder: Path, pair: JudgedEntry) -> Cell:
    pictures = (read_picture(folder, name) for name in (pair.original, pair.changed))
    answers = (f"{name}: {answer}" for name, answer in pair.answers.items())
    return Cell(tuple(each.png for each in pictures if each is not None), (pair.label, *answers))


def _gains(entries: Sequence[Contents], of: str) -> str:
    """A box for each row and explainer: by the first measure, what it has more than the row that it is set against."""
    lines, titles = [], []
    for contents in entries:
        key, title = first_measure(contents.record)
        titles.append(title)
        for number, (explainer, samples) in enumerate(gains(contents, key).items()):
            lines += [(number, f"{model}, {explainer.replace('_', ' ')}", values) for _, model, values in samples]
    if not lines:
        return ""
    lines.sort(key=lambda line: line[1])
    plot = box_plot("Gains", lines, common_axis([values for _, _, values in lines]), "Gains example by example")
    return box_file(plot, f"{titles[0]} minus that of natural training, example by example", [of, _BOX])


def _boxes(contents: Contents, key: str, of: str) -> str:
    """A box for each explainer and network, of the values of one measure; "" where there are none."""
    rows = [row for row in contents.rows("maps") if row.get(key) is not None and math.isfinite(row[key])]
    models = [model.name for model in contents.record.models]
    lines = []
    for explainer in dict.fromkeys(row["explainer"] for row in rows):
        for number, model in enumerate(models):
            values = [row[key] for row in rows if (row["explainer"], row["model"]) == (explainer, model)]
            lines += [(number, f"{model}, {explainer.replace('_', ' ')}", np.asarray(values))] if values else []
    if not lines:
        return ""
    title = contents.record.measures[key].title
    plot = box_plot(title, lines, common_axis([values for _, _, values in lines]), f"{title}, example by example")
    return box_file(plot, f"{title}, example by example", [of, _BOX])


def _manipulated(contents: Contents) -> Iterator[Row]:
    """A line per picture and explainer: for each network the map, the wanted one, the changed picture, and its map."""
    shape, names = contents.record.data.shape, [model.name for model in contents.record.models]
    at = {(row["example"], row["explainer"], row["model"]): row for row in contents.rows("maps")}
    moved = {
        (row["example"], row["explainer"], row["model"]): row
        for row in contents.rows("moved")
        if contents.record.measures[row["measure"]].spec.partition(":")[0] == "manipulated"
    }
    pairs = list(dict.fromkeys(key[:2] for key in moved)) if len(shape) == 3 else []
    explainers = dict.fromkeys(explainer for _, explainer in pairs)
    each = ([pair for pair in pairs if pair[1] == explainer][:_LED] for explainer in explainers)
    for example, explainer in itertools.chain(*each):
        shown = (row for row in contents.rows("examples") if row["example"] == example)
        cells = [Cell(_picture(contents, next(shown, None)), (explainer.replace("_", " "),))]
        for name in (name for name in names if (example, explainer, name) in moved):
            before, after = (rows[example, explainer, name] for rows in (at, moved))
            pixels = np.asarray(after["x"]).reshape(tuple(shape)).transpose(1, 2, 0)
            changed = picture_of(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)).png
            cells.append(Cell(() if before["map"] is None else _heat(before, shape), (name, "map")))
            if after.get("wanted") is not None:
                cells.append(Cell(_heat({"map": after["wanted"]}, shape), (name, "wanted")))
            cells.append(Cell((changed,), (name, "changed")))
            cells.append(Cell(_heat(after, shape), (name, "map then", _stays(before, after, shape))))
        yield Row(tuple(cells))


def _masks(contents: Contents) -> Iterator[Row]:
    """A line per picture: it, what its outline leaves of it, and what each map's strong pixels leave, by explainer."""
    shape, names = contents.record.data.shape, [model.name for model in contents.record.models]
    at = {
        (row["example"], row["explainer"], row["model"]): row for row in contents.rows("places") if row.get("outline")
    }
    explainers = dict.fromkeys(explainer for _, explainer, _ in at)
    for example in list(dict.fromkeys(example for example, _, _ in at))[:_MAPPED]:
        shown = next((row for row in contents.rows("examples") if row["example"] == example), None)
        picture = None if shown is None else read_picture(contents.folder, shown["picture"])
        if picture is None:
            continue
        outline = np.asarray(next(row["outline"] for key, row in at.items() if key[0] == example)).reshape(shape[1:])
        cells = [Cell((picture.png,)), Cell((_left(picture.pixels, outline),), ("outline",))]
        for explainer, name in itertools.product(explainers, names):
            row = at.get((example, explainer, name))
            if row is None or row["mask"] is None:
                cells.append(Cell((), (name, explainer.replace("_", " "))))
                continue
            mask = np.asarray(row["mask"]).reshape(shape[1:])
            overlap = (mask & outline).sum() / max((mask | outline).sum(), 1)
            lines = (name, explainer.replace("_", " "), f"IoU {overlap:.2f}")
            cells.append(Cell((_left(picture.pixels, mask),), lines))
        yield Row(tuple(cells))


def _left(pixels: np.ndarray, mask: np.ndarray) -> bytes:
    """A picture [height, width, channels] where a mask [height, width] is, and white elsewhere."""
    return encoded(np.where(mask[:, :, None], pixels, 255).repeat(3 // pixels.shape[2], axis=2).astype(np.uint8))


def _stays(before: dict[str, Any], after: dict[str, Any], shape: Sequence[int]) -> str:
    """How much of a map is left, as the papers count it: over pixels, whose channels are summed."""
    if before["map"] is None:
        return ""
    maps = [torch.tensor(row["map"], dtype=torch.float64).reshape(1, *shape) for row in (before, after)]
    k = largest_pixels(shape)
    return f"IN {1 - TopK(k)(*maps).item():.2f}, K {1 - Kendall()(*maps).item():.2f}"


def _maps(contents: Contents) -> list[Row]:
    """A line per picture: the input, and the map of each model by each explainer."""
    shape, models = contents.record.data.shape, [model.name for model in contents.record.models]
    kept = [row for row in contents.rows("maps") if row["map"] is not None and len(shape) == 3]
    at = {(row["example"], row["explainer"], row["model"]): row for row in kept}
    explainers = list(dict.fromkeys(row["explainer"] for row in kept))
    key, title = first_measure(contents.record)
    rows = []
    for example in list(dict.fromkeys(row["example"] for row in kept))[:_MAPPED]:
        shown = (row for row in contents.rows("examples") if row["example"] == example)
        cells = [Cell(_picture(contents, next(shown, None)))]
        for explainer in explainers:
            for model in models:
                row = at.get((example, explainer, model))
                value = "" if row is None else f"{title} {value_of(row, key)}"
                heat = () if row is None else _heat(row, shape, places_of(contents, row))
                cells.append(Cell(heat, (model, explainer.replace("_", " "), value)))
        rows.append(Row(tuple(cells)))
    return rows


def _heat(row: dict[str, Any], shape: Sequence[int], placed: dict[str, Any] | None = None) -> tuple[bytes, ...]:
    """A map; with the labelled things' boxes in black and its own in grey, where they are known."""
    pixels = summed(np.asarray(row["map"]).reshape(tuple(shape)))
    if not np.isfinite(pixels).all():  # no colour stands for what is not
        return ()
    heat = coloured(pixels, reach_of([pixels]))
    if placed is not None:
        boxes = [(box, 0) for box in placed["things"]] + ([(placed["box"], 110)] if placed["box"] else [])
        heat = framed(heat, boxes)
    return (encoded(heat),)
