"""Verbs of the command line that break off: a program of its own, for `test_ownership`.

    python broken_verbs.py FOLDER [VERB...]

Every verb is a process forked from this one, which has imported everything already: once to which nothing happens, and
then, for system calls that change its folder, killed before that call, or with that call refused because the disk is
full, or broken. After each the same command is given again. Prints a line of JSON for each. Of the VERBs that are named
every call meets all three ends; else a few calls, spread over the whole, meet one each.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import advex
from advex import cli, environment
from advex.files import LOCK, is_temporary

FEW = 6
ENDS = {"killed": 0, "full": errno.ENOSPC, "broken": errno.EIO}
EVALUATE = ["--explanations", "0", "--btr", "none"]
EVALUATE += ["--attack", "minimal:gradients=40", "--data", "digits", "--max-samples", "2", "-q"]
VERBS = {
    "evaluate": ["evaluate", "-m", "a/run", *EVALUATE],
    "compare": ["compare", "a/record", "b/record", "-q"],
    "explain": ["explain", "-m", "a/run", "--data", "digits", "--index", "0,1", "--steps", "1", "-q"],
    "maps": ["explain", "-m", "a/run", "--data", "digits", "--index", "0,1", "--explainer", "gradient", "-q"],
    "generate": ["generate", "3", "5", "-m", "a/run", "--data", "digits", "--count", "1", "--steps", "1", "-q"],
    "prepare": ["annotate", "prepare", "-m", "a/run", "--data", "digits", "--max-samples", "2", "--batch-size", "1",
                "--search", "pgd:steps=1,norm=rmse,radius=1", "--margin", "0", "-q"],
    "train": ["train", "digits-ordinary", "epochs=1", "network=linear", "--data", "digits", "--max-samples", "8", "-q"],
}  # fmt: skip


class Fault:
    """Counts this process's system calls that change files in a folder; at one of them something happens."""

    def __init__(self, folder: Path, number: int, act: Callable[[], None]) -> None:
        self.folder, self.number, self.act = str(folder), number, act
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event == "open":
            changes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR) and self._inside(args[0])
        else:
            changes = event in ("os.mkdir", "os.rename", "os.chmod", "os.truncate") and self._inside(args[0])
            changes = changes and not (event == "os.mkdir" and os.path.isdir(args[0]))  # nothing is made
        if changes:
            self.seen.append(f"{event} {os.path.basename(str(args[0]))}")
            if len(self.seen) - 1 == self.number:
                self.act()

    def _inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.folder)


def forked(arguments: list[str], folder: Path, number: int = -1, end: str = "") -> tuple[int, str, list[str]]:
    """A command in a process of its own: how it ended, its errors, and the calls that changed its folder."""
    errors, calls = folder.parent / "errors", folder.parent / "calls"
    child = os.fork()
    if child == 0:

        def act() -> None:
            if end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(ENDS[end], os.strerror(ENDS[end]))

        fault = Fault(folder, number, act)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["advex", *arguments, "--out", str(folder)]
        sys.addaudithook(fault)
        code = 0
        try:
            cli.main()
        except SystemExit as left:
            code = int(left.code or 0)
        except BaseException as error:
            code = 99
            os.write(2, f"{type(error).__name__}: {error}".encode())
        sys.stderr.flush()
        fault.folder = "/nowhere"
        calls.write_text(json.dumps(fault.seen))
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, errors.read_text(), json.loads(calls.read_text()) if calls.exists() else []


def names(folder: Path) -> list[str]:
    """All files in a folder, but those of the clock."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def main(root: Path, chosen: list[str]) -> None:
    """All verbs, all calls, all ends."""
    os.chdir(root)
    for name, seed in (("a", 0), ("b", 1)):
        torch.manual_seed(seed)
        advex.save(advex.Classifier("linear:features=64,classes=10"), root / name / "run")
    for name in ("a", "b"):
        arguments = [word.replace("a/run", f"{name}/run") for word in VERBS["evaluate"]]
        assert forked(arguments, root / name / "record")[0] == 0, (root / name / "errors").read_text()
    for verb in chosen or VERBS:
        out = root / "verb" / "out"
        out.parent.mkdir(exist_ok=True)
        # In this process, so that what is imported on the way is there for others.
        with contextlib.suppress(SystemExit), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            sys.argv = ["advex", *VERBS[verb], "--out", str(root / verb)]
            cli.main()
        code, errors, calls = forked(VERBS[verb], out)
        whole = names(out) if code == 0 else []
        print(json.dumps({"verb": verb, "end": "whole", "code": code, "errors": errors, "left": whole}), flush=True)
        shutil.rmtree(out, ignore_errors=True)
        ends, step = list(ENDS), 1 if chosen else max(1, len(calls) // FEW)
        for number in range(0, len(calls), step):
            call = calls[number]
            for end in ends if chosen else [ends[number // step % len(ends)]]:
                code, errors, _ = forked(VERBS[verb], out, number, end)
                left = names(out) if out.exists() else []
                unfinished = [name for name in left if is_temporary(Path(name).name) and Path(name).name != LOCK]
                told = {"verb": verb, "end": end, "call": f"{number} {call}", "code": code, "errors": errors}
                again, errors, _ = forked(VERBS[verb], out)
                told |= {"unfinished": unfinished, "again": again, "then": errors, "left": names(out)}
                print(json.dumps(told), flush=True)
                shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    environment._commit = lambda file: None  # which asks git
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
