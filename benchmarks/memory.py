"""Peak memory of one call, in a process of its own. Linux alone can say."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def above_rest(call: Callable[[], Any], *, before: Callable[[], Any] = lambda: None) -> float:
    """MB that one call takes at most above the resting process, after two calls to warm up. before: tidies up first."""
    for _ in range(2):
        call()
    before()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    resting = _status("VmRSS")
    call()
    return (_status("VmHWM") - resting) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def in_a_process(module: str, *arguments: str) -> float:
    """What `python -m MODULE ARGUMENTS` prints, a number: allocators keep what they once had, so each has its own."""
    # Large tensors are given back to the system at once, so that the peak is of what is held.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", module, *arguments]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
