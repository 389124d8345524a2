"""Copies of one command: a program of its own, for `test_copies`.

    python copies.py FOLDER RESULTS PROCESSES [killed|without|killed-without|project]

So many processes, forked from this one, evaluate the same into FOLDER; RESULTS/NUMBER lists the pieces that each made.
killed: the first dies by SIGKILL within its fourth piece. without: the file system has no locks. project: they make
pictures for people to judge instead. Nothing numbers them, as in plain terminals. Ends with the number of processes
that did not end well.
"""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import advex
from advex import cli, evaluation
from advex.evaluation import shards

DATA = advex.open_dataset("digits", split="test", max_samples=24)
SETTINGS: dict[str, Any] = {
    "attack": "minimal:gradients=5", "btr": None, "batch_size": 4, "explanations": 2, "maps": ["gradient"],
    "measures": ["gini"], "radius": ["linf:0.1,linf:0.2"], "suite": ["pgd:steps=2"], "recheck": 7,
}  # fmt: skip
PREPARE = ["--model", "builtin:planted", "--model", "other=builtin:planted", "--data", "planted", "--split", "test"]
PREPARE += ["--device", "cpu", "--search", "minimal:gradients=4", "--max-samples", "12", "--batch-size", "3"]
PREPARE += ["--margin", "0.1"]


def _evaluate(folder: Path) -> None:
    torch.manual_seed(0)
    classifier = advex.Classifier(advex.networks.build("small_cnn:widths=4-4-4"))
    evaluation.evaluate([("net", "net", classifier)], DATA, folder, evaluation.settings_from(SETTINGS))


def _prepare(folder: Path) -> None:
    sys.argv = ["advex", "annotate", "prepare", *PREPARE, "--out", str(folder)]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise


def _work(folder: Path, told: Path, number: int, how: str, met: Any) -> None:
    made: list[str] = []
    write = shards.Shards.write

    def noted(self: shards.Shards, model: str, kind: str, index: int, *rest: Any) -> None:
        if "killed" in how and number == 0 and len(made) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, model, kind, index, *rest)
        made.append(f"{model}.{kind}.{index}")
        if how == "project" and len(made) == 1:  # of so quick pieces the first process would make all
            met.wait(timeout=200)

    shards.Shards.write = noted  # pyright: ignore[reportAttributeAccessIssue]
    (_prepare if how == "project" else _evaluate)(folder)
    (told / str(number)).write_text(json.dumps(made))


def main(folder: Path, told: Path, processes: int, how: str = "") -> int:
    """Returns how many of them did not end well."""
    if "without" in how:

        def none(*_: Any) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        fcntl.flock = none
        warnings.simplefilter("ignore")
    children, met = [], multiprocessing.get_context("fork").Barrier(processes)
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                _work(folder, told, number, how, met)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
