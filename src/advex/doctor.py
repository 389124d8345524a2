"""Is this installation sound? Each check says what was found and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from advex._version import __version__
from advex.errors import install_extra

State = Literal["ok", "note", "broken"]
_PACKAGES = (
    "numpy", "scipy", "scikit-learn", "pillow", "pyarrow", "captum", "safetensors", "pydantic", "PyYAML", "typer",
    "rich", "jinja2", "matplotlib",
)  # fmt: skip
_EXTRAS = ("explore", "annotate", "postgres", "augment", "hub", "tensorboard", "notebook")
_LEAST_TORCH = (2, 10)
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One thing looked at. remedy: a sentence, where there is something to do or to know."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(device: str) -> list[Check]:
    """All checks, none of which raises. device: where the search with the known answer runs."""
    steps: dict[str, Callable[[], Check]] = {
        "python": python,
        "packages": packages,
        "extras": extras,
        "torch": torch_build,
        "device": lambda: device_found(device),
        "torchvision": torchvision,
        "memory": memory,
        "disk": disk,
        "ADVEX_DATA": development_data,
        "known answer": lambda: known_answer(device),
    }
    return [_safely(name, step) for name, step in steps.items()]


def _safely(name: str, step: Callable[[], Check]) -> Check:
    try:
        return step()
    except Exception as error:  # a doctor does not die of what it finds
        return Check(name, "broken", f"{type(error).__name__}: {error}", "This check itself failed; please report it.")


def python() -> Check:
    """The interpreter."""
    return Check(
        "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}; advex {__version__}"
    )


def packages() -> Check:
    """The packages that advex needs are there, and not older than it asks for."""
    lacking = [text for text, installed in _required("").items() if not installed]
    if lacking:
        words = " ".join(shlex.quote(text) for text in lacking)
        return Check(
            "packages", "broken", f"missing or too old: {', '.join(lacking)}",
            f"Install them: {sys.executable} -m pip install {words}.",
        )  # fmt: skip
    return Check("packages", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES))


def extras() -> Check:
    """Which extras are complete."""
    lacking = {extra: [text for text, installed in _required(extra).items() if not installed] for extra in _EXTRAS}
    texts = [f"{extra} ({', '.join(texts)})" if texts else extra for extra, texts in lacking.items()]
    missing = [extra for extra, texts in lacking.items() if texts]
    if not missing:
        return Check("extras", "ok", ", ".join(texts))
    here = [extra for extra in _EXTRAS if extra not in missing]
    text = f"{', '.join(here) or 'none'}; missing or too old: {', '.join(t for t in texts if '(' in t)}"
    return Check("extras", "note", text, f"If you need them: {install_extra(','.join(missing))}")


def _required(extra: str) -> dict[str, bool]:
    """What advex, or an extra, asks for, and whether it is installed in such a version."""
    try:
        lines = importlib.metadata.requires("advex") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder without being installed
        lines = []
    required = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?>=([\d.]+)(?:; extra == '(\w+)')?", line.replace('"', "'"))
        if match is None or (match[3] or "") != extra:
            continue
        try:
            installed = _numbers(importlib.metadata.version(match[1])) >= _numbers(match[2])
        except importlib.metadata.PackageNotFoundError:
            installed = False
        required[f"{match[1]}>={match[2]}"] = installed
    return required


def _numbers(version: str) -> list[int]:
    """The leading numbers of a version, without zeros at its end."""
    numbers = [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]  # pyright: ignore
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def torch_build() -> Check:
    """The version of torch, what it was built for, and its threads."""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    text = f"{torch.__version__} ({built}), {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < _LEAST_TORCH:
        return Check("torch", "broken", text, "advex needs torch 2.10 or later.")
    return Check("torch", "ok", text)


def device_found(device: str) -> Check:
    """The device that would be used, and that it computes."""
    x = torch.ones(64, 64, device=device)
    if float((x @ x).sum()) != 64.0**3:
        return Check("device", "broken", f"{device} multiplies wrongly", "Choose another with --device.")
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return Check("device", "ok", name)


def torchvision() -> Check:
    """A torchvision that does not fit torch: advex does not need one, but a broken one breaks others.

    Tried in a process of its own, because a broken one may end the process that imports it.
    """
    if importlib.util.find_spec("torchvision") is None:
        return Check("torchvision", "ok", "not installed, not needed")
    command = [sys.executable, "-c", "import torchvision; print(torchvision.__version__)"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if tried.returncode == 0:
            return Check("torchvision", "ok", f"{tried.stdout.strip()} (advex does not use it)")
        reason = (tried.stderr.strip().splitlines() or [f"the process ended with code {tried.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        reason = "importing it took more than a minute"
    remedy = (
        "It does not match this torch, usually because it was built for another version or for CUDA. advex "
        "never imports it, but other libraries and networks of your own may fail through it: uninstall it, "
        "or install the build that belongs to this torch."
    )
    return Check("torchvision", "broken", f"cannot be imported: {reason}", remedy)


def memory() -> Check:
    """Memory that is free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return Check("memory", "ok", "not known on this system")
    text = f"{free / _GIB:.1f} GiB free"
    if free < _GIB:
        return Check("memory", "note", text, "Little memory: use a small --batch-size.")
    return Check("memory", "ok", text)


def disk() -> Check:
    """The working folder can be written, and has room."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    text = f"{free / _GIB:.1f} GiB free in the working folder"
    try:
        with tempfile.NamedTemporaryFile(dir=here, prefix=".advex-doctor-"):
            pass
    except OSError as error:
        text = f"{text}, but it cannot be written ({error.strerror})"
        return Check("disk", "broken", text, "Choose --out elsewhere.")
    if free < _GIB:
        return Check("disk", "note", text, "Little disk space for records and runs.")
    return Check("disk", "ok", text)


def development_data() -> Check:
    """The folder named by ADVEX_DATA, if any."""
    named = os.environ.get("ADVEX_DATA")
    if not named:
        return Check("ADVEX_DATA", "ok", "not set: only data sets given by path, and the built-in digits")
    folder = Path(named)
    if not folder.is_dir():
        remedy = "Unset ADVEX_DATA, or set it to a folder of data sets."
        return Check("ADVEX_DATA", "broken", f"{named} is not a folder", remedy)
    names = sorted(path.name for path in folder.iterdir() if os.path.isdir(path))
    return Check("ADVEX_DATA", "ok", ", ".join(names) or "empty")


def known_answer(device: str) -> Check:
    """The default search on a linear classifier, where the smallest change is |margin| / |w|."""
    from advex.attacks import Minimal
    from advex.classifier import Classifier
    from advex.goals import Misclassify

    began = time.perf_counter()
    rng = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(64, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 64, generator=rng))
        layer.bias.zero_()
    classifier = Classifier(layer).to(device).eval()
    x = (0.5 + 0.02 * torch.randn(16, 64, generator=rng)).to(device)
    logits = classifier.logits(x).detach()
    y = logits.argmax(dim=1)
    normal = classifier.network.weight[0] - classifier.network.weight[1]  # pyright: ignore
    exact = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(normal.detach()) / 8  # RMSE: L2 / sqrt(64)
    sizes = Minimal()(classifier, x, Misclassify(y)).rmse
    worst = float((sizes / exact).max())
    text = f"largest ratio of found to smallest change {worst:.4f}, in {time.perf_counter() - began:.1f} s"
    if not 0.999 < float((sizes / exact).min()) <= worst < 1.02:
        return Check("known answer", "broken", text, "The search is wrong here; please report it with this table.")
    return Check("known answer", "ok", text)
