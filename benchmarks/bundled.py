"""Puts trained runs into the package as the bundled networks, with what was measured of them.

    advex train cifar10-fast-robust --data cifar10 --out runs/robust        # and so on, for each of the four
    advex evaluate --model runs/ordinary,runs/adversarial,runs/lipschitz,runs/robust --data cifar10 \\
        --max-samples 1000 --out records/bundled
    advex evaluate (the same) --published --max-samples 256 --out records/published
    python -m benchmarks.bundled --runs runs --record records/bundled --published records/published

With `--group photos` those of 64x64 pixels instead, of the kinds that the record has, from runs of photos-robust on
tiny-imagenet-20. `advex demo`, `builtin:cifar10-robust` and `advex list builtin` then show them. Prints the table of
NUMBERS.md.
Without --runs the weights stay, and the figures alone are replaced by those of `--model builtin:cifar10-ordinary,...`;
certified and published figures that no record given holds are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

from advex import bundled
from advex.bundled import FIGURES, Figures
from advex.files import write_text
from advex.record import Figure, ModelEntry, Record, read_record

FILES = ("config.json", "model.safetensors", "recipe.yaml", "env.json", "metrics.jsonl")
KINDS = {
    "cifar10": {
        "ordinary": "trained on the pictures as they are",
        "adversarial": "half of each batch attacked by L2,min",
        "lipschitz": "stochastic Lipschitz penalty",
        "robust": "stochastic Lipschitz penalty and half of each batch attacked",
    },
    "photos": {
        "ordinary": "trained on the pictures as they are",
        "robust": "half of each batch attacked by L2,min",
    },
}
DATA = {"cifar10": ("CIFAR-10", "CIFAR-10 (JPEG)"), "photos": ("photos of 64x64", "20 classes of Tiny ImageNet")}
COLUMNS = ("network", "accuracy", "attack ARA", "BTR ARA", "attack ARA, published", "BTR ARA, published",
           "certified area", "size", "trained")  # fmt: skip


def place(network: str) -> Path:
    """Where a network lies in the package."""
    return Path(bundled.__file__).parent / network


def copied(run: Path, network: str) -> None:
    """The finished run's own files, as they are."""
    place(network).mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(run / name, place(network) / name)


def trained(network: str) -> str:
    """On what, and how long, by the run's own log."""
    lines = [json.loads(line) for line in (place(network) / "metrics.jsonl").read_text().splitlines()]
    machine = json.loads((place(network) / "env.json").read_text())
    threads = "1 thread" if machine["threads"] == "1" else f"{machine['threads']} threads"
    minutes = lines[-1]["seconds"] / 60
    return f"{lines[-1]['epochs']} epochs in {minutes:.0f} minutes on {threads} of {machine['cpu']}"


def entry(record: Record | None, kind: str) -> ModelEntry | None:
    """The model of that kind, by its name in the record; None where the record has none."""
    models = [] if record is None else record.models
    return next((model for model in models if model.name.rpartition("-")[2] == kind), None)


def figures(group: str, kind: str, record: Record, published: Record | None, kept: Figures | None) -> Figures:
    """What `figures.json` says of one network. kept: of the same weights, what it said before."""
    model, theirs = entry(record, kind), entry(published, kind)
    if model is None:
        raise SystemExit(f"The record has no model '{kind}'.")
    accuracy, area = model.scores["accuracy"], model.scores["attack_ara"]
    depth = re.search(r"^preact_resnet:.*?depth=(\d+)", model.spec or "")
    network = f"pre-activation ResNet-{depth[1]}" if depth else str(model.spec)
    certified = {
        name: score
        for name, score in (kept.scores if kept else {}).items()
        if name.startswith("certified") and name not in model.scores
    }
    examples, protocol = (kept.published_examples, kept.published) if kept else (0, {})
    if theirs is not None and published is not None:
        examples = published.data.examples
        protocol = {name: score for name, score in theirs.scores.items() if "published" in name or name == "accuracy"}
    return Figures(
        summary=f"{network} for {DATA[group][0]}, {KINDS[group][kind]}: accuracy {100 * accuracy.value:.1f} %, "
        f"attack ARA {area.value:.4f} (n = {accuracy.n})",
        data=f"{DATA[group][1]}, {record.data.source}",
        examples=record.data.examples,
        searches=record.searches,
        scores=model.scores | certified,
        published_examples=examples,
        published=protocol,
        training=trained(f"{group}-{kind}"),
    )


def cell(figure: Figure | None, percent: bool = False) -> str:
    """`0.0115 [0.0110, 0.0120]`."""
    if figure is None:
        return ""
    scale, digits = (100, 1) if percent else (1, 4)
    value, low, high = (f"{scale * number:.{digits}f}" for number in (figure.value, figure.low, figure.high))
    return f"{value} {'% ' if percent else ''}[{low}, {high}]"


def table(group: str) -> str:
    """The bundled networks of a group as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * (len(COLUMNS) - 1)]
    for kind in (kind for kind in KINDS[group] if f"{group}-{kind}" in bundled.names()):
        found = bundled.figures(f"{group}-{kind}")
        size = (place(f"{group}-{kind}") / "model.safetensors").stat().st_size / 1e6
        cells = [
            kind,
            cell(found.scores["accuracy"], percent=True),
            *(cell(found.scores[name]) for name in ("attack_ara", "btr_ara")),
            *(cell(found.published.get(name)) for name in ("attack_published_ara", "btr_published_ara")),
            cell(found.scores.get("certified_ara")),
            f"{size:.2f} MB",
            found.training,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=KINDS, default="cifar10")
    parser.add_argument("--runs", type=Path, help="folder of the run folders, named by kind")
    parser.add_argument("--record", type=Path, required=True, help="the evaluation with the default search")
    parser.add_argument(
        "--published", type=Path, nargs="+", default=[], help="some with the papers' protocol, on fewer images"
    )
    args = parser.parse_args()
    record, published = read_record(args.record), [read_record(path) for path in args.published]
    for kind in (kind for kind in KINDS[args.group] if entry(record, kind) is not None):
        network = f"{args.group}-{kind}"
        if args.runs is not None:
            copied(args.runs / kind, network)
        theirs = next((one for one in published if entry(one, kind)), None)
        kept = bundled.figures(network) if args.runs is None else None
        text = figures(args.group, kind, record, theirs, kept).model_dump_json(indent=1)
        write_text(place(network) / FIGURES, text + "\n")
    print(table(args.group))


if __name__ == "__main__":
    main()
