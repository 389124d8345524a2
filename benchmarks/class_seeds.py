"""Makes the seeds that come with advex: of each class of CIFAR-10 its mean and leading directions.

    python -m benchmarks.class_seeds --data path/to/cifar10 --out src/advex/data/published/cifar10_seeds.safetensors

Pictures are averaged over 2 x 2 pixels. The directions are the first eigenvectors of the class's covariance, each times
the root of its eigenvalue, as bytes of a common scale.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import advex
from advex.data.dataset import Dataset, content
from advex.data.seeds import enlarged


def leading(own: Dataset, count: int) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """`mean` [3, 16, 16] and `rows` [count, 3, 16, 16] as bytes, `scale` [count]; the seeds' variance, as a share of
    that of the pictures and of that of the averaged ones."""
    whole = own.x.double().var(dim=0, correction=0).sum() / 255**2
    small = torch.cat([torch.nn.functional.avg_pool2d(batch.x.double(), 2) for batch in own.batches(512)])
    mean = small.mean(dim=0)
    centred = (small - mean).flatten(1)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(own))
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count].T
    vectors = vectors * vectors.sum(dim=1).sign()[:, None]  # one of two equal choices
    steps = vectors.abs().amax(dim=1) / 127
    rows = (vectors / steps[:, None]).round().to(torch.int8).reshape(count, *mean.shape)
    drawn = enlarged(vectors.reshape(count, *mean.shape)).square().sum(dim=(1, 2, 3)) * values
    share = float(drawn.sum() / whole), float(values.sum() / centred.square().sum() * len(own))
    parts = {"mean": (255 * mean).round().to(torch.uint8), "rows": rows, "scale": (steps * values.sqrt()).float()}
    return parts, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--directions", type=int, default=22)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = advex.open_dataset(args.data, split="train")
    parts = [leading(data.take((data.y == label).nonzero()[:, 0]), args.directions) for label in range(10)]
    for name, (_, share) in zip(data.class_names, parts, strict=True):
        print(f"{name}: {100 * share[0]:.1f} % of the variance, {100 * share[1]:.1f} % at half the resolution")
    tensors = {key: torch.stack([part[key] for part, _ in parts]) for key in parts[0][0]}
    named = {"class_names": json.dumps(data.class_names), "digest": content(data)}
    save_file(tensors, args.out, metadata=named)
    args.out.chmod(0o644)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
