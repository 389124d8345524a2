"""A small training run that dies: a program of its own, for `test_training_resume`.

    python killed_run.py FOLDER

Every run is a process forked from this one, which has imported everything already. Then it is resumed in
another one. Prints a line of JSON for each, after one for the run to which nothing happens. How they die:

    steps       killed after each step, with and without checkpoints inside epochs
    writes      killed before each system call that changes the run folder, in the last two steps and after them
    rewrites    the same for a run that goes on after a stop at its very last step
    full        no file may grow any more, from each step on
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import advex
from advex import artifacts
from advex.recipes import Recipe, recipe_from
from advex.training import train

RECIPE = recipe_from(
    {
        "network": "small_cnn:widths=4-4-4",
        "epochs": 2,
        "batch_size": 16,
        "accumulate": 2,
        "ema": 0.9,
        "pad": 1,
        "objective": {
            "lipschitz": {"psi": 2.0, "target": 2.4, "rate": 0.05},
            "adversarial": {"attack": "l2min:epsilon=0.3,steps=2", "share": 0.5},
        },
        "robust_every": 1,
        "robust_attack": "pgd:norm=rmse,radius=0.1,steps=2",
        "robust_samples": 8,
        "keep": 2,
        "seed": 3,
    }
)
DATA = advex.open_dataset("digits", split="train", max_samples=40)
VALIDATION = advex.open_dataset("digits", split="test", max_samples=16)
# For the many kills while something is written, a network that is trained at once.
QUICK = recipe_from(
    {"network": "linear", "epochs": 2, "batch_size": 16, "ema": 0.9, "robust_every": 0, "keep": 2, "seed": 3}
)
STEPS = 6  # 40 examples: batches of 16, 16 and 8, twice


def run(
    folder: Path,
    *,
    recipe: Recipe = RECIPE,
    every_step: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    **options: Any,
) -> None:
    """Begin the run, or go on with it. every_step: a checkpoint after each step, not only after each epoch."""
    options = {"validation": VALIDATION, **options, "checkpoint_seconds": 0.0 if every_step else 1e9}
    train(recipe, DATA, folder, resume=True, report=report, **options)


def forked(work: Callable[[], None], *, quiet: bool = False) -> int:
    """Do something in a process of its own: its exit code, or less than zero the signal that it died of."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            if not quiet:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    """At once, without a chance to clean up."""
    os.kill(os.getpid(), signal.SIGKILL)


def left(folder: Path) -> dict[str, Any]:
    """What a finished run has left: digests of all files, and what does not depend on the clock of the others."""
    found: dict[str, Any] = {}
    for path in sorted(folder.parent.rglob("*")):
        name = str(path.relative_to(folder.parent))
        if path.is_dir():
            found[name] = "folder"
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
        elif path.name == "config.json" and "position" in (told := json.loads(path.read_text())):
            position = {key: value for key, value in told["position"].items() if key not in CLOCK}
            sums = {key: value for key, value in position["sums"].items() if key not in CLOCK}
            found[name] = [{**position, "sums": sums}, told["identity"], told["sha256"]]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


CLOCK = ("seconds", "rate")


class Changes:
    """Counts this process's system calls that change files below a folder; dies before one of them."""

    def __init__(self, folder: Path, deadly: int) -> None:
        self.folder, self.deadly = str(folder), deadly
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event == "open":
            changes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR) and self._inside(args[0])
        elif event in ("os.remove", "os.rmdir"):  # `shutil.rmtree` names files from inside their folder
            changes = self._inside(args[0]) or args[1] != -1
        else:
            changes = event in ("os.mkdir", "os.rename", "os.chmod") and self._inside(args[0])
        if changes:
            self.seen.append(f"{event} {os.path.basename(str(args[0]))}")
            if len(self.seen) > self.deadly:
                die()

    def _inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and self.folder in os.fspath(path)


def save_in_two(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """As safetensors does, but so that one can die in the middle."""
    whole = save(tensors)
    for size in (len(whole) // 2, len(whole)):
        path.write_bytes(whole[:size])


def after(step: int, act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """A report that does something after a step."""
    return lambda line: act() if line["step"] == step and "epoch" not in line else None


def tell_whole(what: str, folder: Path, **options: Any) -> None:
    """The run to which nothing happens; in this process, so that what is imported on the way is there for others."""
    run(folder, **options)
    print(json.dumps({"what": what, "name": "whole", "left": left(folder)}), flush=True)


def tell(what: str, name: str, folder: Path, ended: int, **options: Any) -> None:
    """Resume a run that has died, and say how both ended and what is left."""
    resumed = forked(lambda: run(folder, **options))
    print(
        json.dumps({"what": what, "name": name, "ended": ended, "resumed": resumed, "left": left(folder)}), flush=True
    )
    shutil.rmtree(folder.parent)


def kill_after_steps(root: Path) -> None:
    """Each step, with a checkpoint after each and with those of the epochs alone."""
    for every_step in (True, False):
        tell_whole("steps", root / "whole" / "run", every_step=every_step)
        shutil.rmtree(root / "whole")
        for step in range(1, STEPS + 1):
            folder, report = root / str(step) / "run", after(step, die)
            killed = forked(lambda f=folder, e=every_step, r=report: run(f, every_step=e, report=r))
            tell("steps", f"step {step}, {every_step}", folder, killed, every_step=every_step)


def kill_in_writes(root: Path, what: str) -> None:
    """Each system call that changes something, in a run that goes on where another was killed or stopped."""
    options = {"recipe": QUICK, "validation": VALIDATION if what == "writes" else None}
    tell_whole(what, root / "whole" / "run", **options)
    half = root / "half" / "run"
    if what == "writes":
        forked(lambda: run(half, report=after(STEPS - 1, die), **options))
    else:
        stopped: list[int] = []
        report = after(STEPS, lambda: stopped.append(1))
        assert forked(lambda: run(half, report=report, stop=lambda: bool(stopped), **options), quiet=True) == 1

    def watched(folder: Path, deadly: int) -> None:
        artifacts.save_file = save_in_two
        shutil.copytree(half.parent, folder.parent)
        changes = Changes(folder.parent, deadly)
        run(folder, ready=lambda: sys.addaudithook(changes), **options)
        changes.deadly = sys.maxsize
        (root / "changes.json").write_text(json.dumps(changes.seen))

    forked(lambda: watched(root / "noted" / "run", sys.maxsize))
    for number, change in enumerate(json.loads((root / "changes.json").read_text())):
        folder = root / str(number) / "run"
        killed = forked(lambda f=folder, n=number: watched(f, n))
        tell(what, f"before {change}", folder, killed, **options)


def fill_the_disk(root: Path) -> None:
    """From each step on, the system refuses to write files of more than a few bytes."""
    tell_whole("full", root / "whole" / "run", recipe=QUICK)
    limit = (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    for step in range(1, STEPS + 1):
        folder, report = root / str(step) / "run", after(step, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        ended = forked(lambda f=folder, r=report: run(f, recipe=QUICK, report=r), quiet=True)
        tell("full", f"step {step}", folder, ended, recipe=QUICK)


if __name__ == "__main__":
    torch.set_num_threads(1)
    ROOT = Path(sys.argv[1])
    kill_after_steps(ROOT / "steps")
    kill_in_writes(ROOT / "writes", "writes")
    kill_in_writes(ROOT / "rewrites", "rewrites")
    fill_the_disk(ROOT / "full")
