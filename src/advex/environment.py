"""Where an evaluation ran, told without naming the person or the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import torch

from advex._version import __version__


def environment(device: torch.device) -> dict[str, str]:
    """Versions, processor, threads and device; the commit of advex where it runs from a git checkout."""
    facts = {
        "advex": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _processor(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }
    commit = _commit(Path(__file__).resolve())
    return facts | ({"commit": commit} if commit else {})


def without_places(text: str) -> str:
    """Text in which paths are relative to the working directory or to the home directory (`~`).

    >>> without_places(f"advex evaluate --out {Path.cwd() / 'runs' / 'a'}")
    'advex evaluate --out runs/a'
    """
    for folder, short in ((Path.cwd(), ""), (Path.home(), "~/")):
        if folder != folder.parent:  # not the root
            start = rf"(?<![^\s\"'=:,(]){re.escape(str(folder))}"
            text = re.sub(rf"{start}{re.escape(os.sep)}", lambda _, short=short: short, text)
            text = re.sub(rf"{start}(?=$|[\s\"',)])", lambda _, short=short: short.rstrip("/") or ".", text)
    return text


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _commit(file: Path) -> str | None:
    """The commit of the checkout that tracks a file, "-dirty" where tracked files were changed."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(file.parent), "-c", "core.fsmonitor=false", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", file.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
