"""Toy classifiers with known answers, shared by all tests. Everything is float64 unless it says otherwise."""

from __future__ import annotations

import functools
import glob
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advex.classifier import Classifier

# One thread: the tests are many and small, and several processes may run them.
torch.set_num_threads(1)

# The same examples in every run: a red test stays red until it is mended.
hypothesis.settings.register_profile("advex", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("advex")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Debian keeps the server's programs off the path.
POSTGRES = shutil.which("initdb") or next(iter(glob.glob("/usr/lib/postgresql/*/bin/initdb")), None)

# What a test may need beyond what `make test` installs: its marker -> why it skips, where that is missing.
MISSING = {
    "data": "" if os.environ.get("ADVEX_DATA") else "ADVEX_DATA is not set: it names the folder of development data",
    "browser": "" if CHROMIUM else "no Chromium is installed",
    "postgres": "" if POSTGRES else "PostgreSQL is not installed",
    "gpu": "" if torch.cuda.is_available() else "there is no GPU",
}


# What trains, evaluates, serves or starts processes takes seconds: a module of tests that imports it is `slow`.
ROOMS = "training|evaluation|explanation|feedback|reproduction|explore|cli"
SLOW = re.compile(
    rf"^(?:from|import) (?:subprocess|multiprocessing|foolbox|imagecorruptions|schemathesis|advex\.(?:{ROOMS}))\b"
    rf"|^from advex import .*\b(?:{ROOMS})\b",
    re.MULTILINE,
)


@functools.cache
def is_slow(path: Path) -> bool:
    """Whether a module of tests imports something slow."""
    return path.name.startswith("test_") and SLOW.search(path.read_text(encoding="utf-8")) is not None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where no slow test shall run, slow modules need not be imported either."""
    wanted = config.option.markexpr.split(" and ")
    return True if "not slow" in wanted and " or " not in config.option.markexpr and is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marked tests skip where what they need is missing. Slow files come first, so that all processes end together."""
    for item in items:
        if is_slow(item.path) or not {"serve", "browser"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        needs = [name for name in MISSING if item.get_closest_marker(name)]
        for name in needs:
            if MISSING[name]:
                item.add_marker(pytest.mark.skip(reason=MISSING[name]))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def only_what_is_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not marked `data` has none, here as on a newcomer's machine: one that needs it fails at once."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("ADVEX_DATA", raising=False)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Each test starts from one seed and leaves the global generator as it found it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is computed in also by a CPU that has no instructions for it."""
    for user in ("training.steps", "training.divergence", "evaluation.examples", "objectives.adversarial"):
        monkeypatch.setattr(f"advex.{user}.has_bfloat16", lambda device: True)


@pytest.fixture
def development_data() -> Path:
    """The folder with the development data, for tests marked `data`."""
    assert os.environ.get("ADVEX_DATA"), "a test that needs the development data is marked: pytest.mark.data"
    return Path(os.environ["ADVEX_DATA"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium, for tests marked `browser`. It ends with the module: while it is open, an event loop is running."""
    assert CHROMIUM, "a test that needs a browser is marked: pytest.mark.browser"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Spheres(nn.Module):
    """Two classes on both sides of a sphere: logit difference |x|^2 - r^2."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(radius, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        excess = x.flatten(1).square().sum(dim=1) - self.radius**2
        return torch.stack([-excess / 2, excess / 2], dim=1)


class Deaf(nn.Module):
    """The same logits whatever the input. attached: the input is in the graph, times zero."""

    def __init__(self, logits: list[float], *, attached: bool) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(logits, dtype=torch.float64))
        self.attached = attached

    def forward(self, x: Tensor) -> Tensor:
        constant = self.values.expand(len(x), -1)
        return constant + 0 * x.flatten(1).sum(dim=1, keepdim=True) if self.attached else constant


def affine(weight: Tensor, bias: Tensor, box: tuple[float, float] = (0.0, 1.0)) -> Classifier:
    """Logits weight @ x + bias, for inputs of any shape with weight.shape[1] elements."""
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return Classifier(nn.Sequential(nn.Flatten(), layer), box=box).eval()


def spheres(radius: float) -> Classifier:
    """`Spheres` in the box [-3, 3]."""
    return Classifier(Spheres(radius), box=(-3.0, 3.0)).eval()


def deaf(logits: list[float], *, attached: bool) -> Classifier:
    """`Deaf` in the unit box."""
    return Classifier(Deaf(logits, attached=attached)).eval()


def mlp(shape: tuple[int, ...] = (3, 2, 2), classes: int = 3) -> Classifier:
    """A small random network with curved decisions, all classes equally frequent. Smooth, for tight comparisons."""
    torch.manual_seed(0)
    features = int(np.prod(shape))
    spec = f"mlp:features={features},classes={classes},widths=16-16,activation=silu"
    classifier = Classifier(spec, mean=0.5, std=0.3).double()
    with torch.no_grad():
        logits = classifier(torch.rand(1000, *shape, dtype=torch.float64))
        head = classifier.network[-1]  # pyright: ignore
        head.weight.mul_(3 / logits.std(dim=0)[:, None])
        head.bias.copy_(-3 * logits.mean(dim=0) / logits.std(dim=0))
    return classifier.eval()


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    """The makers of toy classifiers, by name."""
    return SimpleNamespace(affine=affine, spheres=spheres, deaf=deaf, mlp=mlp)


@pytest.fixture(scope="session")
def digits() -> SimpleNamespace:
    """A small float32 network trained on scikit-learn's digits in about a second, and held-out images.

    classifier; x: [200, 64] in [0, 1], y: [200].
    """
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = torch.tensor(data.data[order] / 16, dtype=torch.float32), torch.tensor(data.target[order])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier("mlp:features=64,classes=10,widths=48,activation=relu")
        optimiser = torch.optim.Adam(classifier.parameters(), lr=3e-3)
        for _ in range(12):
            for rows in torch.randperm(1400).split(64):
                optimiser.zero_grad()
                cross_entropy(classifier(x[rows]), y[rows]).backward()
                optimiser.step()
    classifier.eval().requires_grad_(False)
    accuracy = (classifier(x[1400:1600]).argmax(dim=1) == y[1400:1600]).float().mean()
    assert accuracy > 0.9, f"the fixture has not learned its task: {accuracy:.3f}"
    return SimpleNamespace(classifier=classifier, x=x[1400:1600], y=y[1400:1600])
