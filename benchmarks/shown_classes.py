"""For which classes an explanation shows the class: the share of changed pictures that another network calls so.

    python -m benchmarks.shown_classes --models builtin:photos-ordinary,builtin:photos-robust --data tiny-imagenet-20 \\
        --count 50 --out shown

For each class pictures of other classes, drawn by seed, are changed towards it by each network (RMSE 0.1, `toward`),
and the other networks classify them. Beside it: the pictures as they are, and with random signs of that
RMSE, clipped. Prints the table, and draws for each model the first pictures of each class, before and after.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import advex
from advex.classifier import Classifier
from advex.data.images.png import encode_png
from advex.drawing.contact_sheet import Cell, Row, draw
from advex.measures.intervals import wilson

RHO, DRAWN = 0.1, 6


def noisy(x: Tensor, rho: float, generator: torch.Generator) -> Tensor:
    """The pictures with random signs of that RMSE, clipped to [0, 1]."""
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x.dtype) * 2 - 1
    return (x + rho * signs).clamp(0, 1)


def drawn_from(data: advex.Dataset, number: int, count: int, seed: int) -> Tensor:
    """[count, c, h, w]: examples of other classes than that, without repetition."""
    others = (data.y != number).nonzero()[:, 0]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed + number))
    return data.batch(others[order[:count]].sort().values).x


def measured(
    models: dict[str, Classifier], data: advex.Dataset, count: int, seed: int, out: Path
) -> list[dict[str, Any]]:
    """A row for each model and class: how many pictures each other model takes for the class, by what was done."""
    rows: list[dict[str, Any]] = []
    for name, model in models.items():
        sheet = []
        for number, label in enumerate(data.class_names):
            x = drawn_from(data, number, count, seed)
            toward = advex.explainers.Toward(rho=RHO)(model, x, torch.full((len(x),), number)).picture
            assert toward is not None
            asked = {"as they are": x, "noise": noisy(x, RHO, torch.Generator().manual_seed(number)), "toward": toward}
            for judge, other in models.items():
                if judge != name:
                    taken = {what: other.predict(each, max_batch=128).argmax(dim=1) for what, each in asked.items()}
                    counts = {what: int((classes == number).sum()) for what, classes in taken.items()}
                    rows.append({"model": name, "judge": judge, "class": label, "n": len(x)} | counts)
            cells = [Cell((encode_png(a), encode_png(b))) for a, b in zip(x[:DRAWN], toward[:DRAWN], strict=True)]
            sheet.append(Row(tuple(cells), heading=f"toward {label}"))
        draw(sheet, side=x.shape[-1], title=f"{name}: before and after").save(out / f"{name}.jpg", quality=88)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="builtin:photos-ordinary,builtin:photos-robust")
    parser.add_argument("--data", default="tiny-imagenet-20")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("shown"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    models = {name.rpartition(":")[2]: advex.load(name) for name in asked.models.split(",")}
    rows = measured(models, advex.open_dataset(asked.data, split="test"), asked.count, asked.seed, asked.out)
    (asked.out / "rows.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        low, high = wilson(row["toward"], row["n"])
        print(f"| {row['model']} | {row['class']} | {row['toward']} of {row['n']} [{low:.0%}, {high:.0%}] | "
              f"{row['noise']} | {row['as they are']} |")  # fmt: skip


if __name__ == "__main__":
    main()
