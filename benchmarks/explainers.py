"""What every explainer and every judge costs, in one table: CPU seconds and peak memory per 100 images.

    python -m benchmarks.explainers
    python -m benchmarks.explainers --model builtin:cifar10-ordinary --data cifar10 --only grad_cam,deletion

Each has its default options, and is asked three times about the same few images, in a process of its own (a fork, so
that nothing is loaded again): the least CPU time is scaled to 100 images; memory is the peak of one call above the
resting process, of those few images. Judges are asked about the gradient's maps, each with nothing made before.
What does not admit the model or the data says why.
The last lines compare removal in passes of many images with one point at a time: the same values, and how much slower.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

import advex
from advex import registry
from advex.classifier import Classifier
from advex.data import Dataset
from advex.errors import AdvexError
from advex.explainers.background import with_background
from advex.measures.case import Case, apply
from benchmarks.memory import above_rest

Call = Callable[[], Any]
_MMAP_THRESHOLD = -3  # of mallopt: large tensors are given back to the system at once, so the peak is of what is held


def calls(classifier: Classifier, data: Dataset) -> Iterator[tuple[str, str, Callable[[], Call]]]:
    """(kind, name, what prepares the call) of everything that is registered."""
    batch = data.batch(slice(None))

    def of_explainer(name: str) -> Call:
        explainer = with_background(registry.build("explainer", name), data, 0)
        return lambda: explainer(classifier, batch.x, batch.y)

    def of_measure(name: str) -> Call:
        measure, case = registry.build("measure", name), case_of(classifier, data)
        return lambda: apply(measure, replace(case))

    for kind, make in (("explainer", of_explainer), ("measure", of_measure)):
        for name in registry.entries(kind):
            yield kind, name, lambda name=name, make=make: make(name)


def case_of(classifier: Classifier, data: Dataset) -> Case:
    """The gradient's maps of all examples."""
    batch, explainer = data.batch(slice(None)), registry.build("explainer", "gradient")
    return Case(
        classifier=classifier, x=batch.x, y=batch.y, explainer=explainer, evidence=data.evidence,
        explanation=explainer(classifier, batch.x, batch.y),
    )  # fmt: skip


def cost(prepare: Callable[[], Call], answer: Any) -> None:
    """Send (CPU seconds, MB) of the call, or the reason why there are none."""
    warnings.simplefilter("ignore")
    ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, 65536)
    seconds: list[float] = []
    try:
        call = prepare()

        def timed() -> None:
            began = time.process_time()
            call()
            seconds.append(time.process_time() - began)

        held = above_rest(timed)
        answer.send((min(seconds), held))
    except AdvexError as error:
        answer.send(str(error))


def apart(prepare: Callable[[], Call]) -> tuple[float, float] | str:
    """The same, in a forked process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=cost, args=(prepare, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        return "it ended without an answer"
    finally:
        process.join()


def one_at_a_time(classifier: Classifier, data: Dataset, name: str) -> str:
    """How much slower a measure of removal is in passes of one point, and by how much its values differ."""
    measure, case = registry.build("measure", name), case_of(classifier, data)
    seconds, values = {}, {}
    for passes in (None, 1):
        values[passes] = apply(measure, replace(case, max_batch=passes)).values[""]
        began = time.process_time()
        apply(measure, replace(case, max_batch=passes))
        seconds[passes] = time.process_time() - began
    difference, ratio = float((values[None] - values[1]).abs().nan_to_num().max()), seconds[1] / seconds[None]
    return f"{name}: one point at a time takes {ratio:.1f} times as long, difference {difference:.0e}."


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:planted")
    parser.add_argument("--data", default="planted")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--only", default="", help="names, separated by commas")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    classifier = advex.load(args.model).eval().requires_grad_(False)
    data = advex.open_dataset(args.data, split="test", max_samples=args.images, seed=0)
    only = set(filter(None, args.only.split(",")))
    print(
        f"{args.model}, {len(data)} images of {args.data}, advex {advex.__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s), {platform.machine()}\n"
    )
    print("| kind | name | CPU s per 100 images | MB |\n|---|---|--:|--:|")
    for kind, name, prepare in calls(classifier, data):
        if not only or name in only:
            made = apart(prepare)
            figures = f"{100 * made[0] / len(data):.2f} | {made[1]:.0f}" if isinstance(made, tuple) else f"{made} |"
            print(f"| {kind} | `{name}` | {figures} |", flush=True)
    print()
    for name in ("deletion", "insertion"):
        if not only or name in only:
            print(one_at_a_time(classifier, data, name), flush=True)


if __name__ == "__main__":
    main()
