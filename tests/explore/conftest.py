"""What the tests of explore share: the projects and servers of the annotation tests, a small network, a slow study."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra `annotate` is not installed")

from torch.nn.functional import cross_entropy

from advex import data as sets
from advex.annotation import PICTURES, people
from advex.annotation.store import Store
from advex.artifacts import save
from advex.classifier import Classifier
from advex.explore import sources
from advex.explore.desk import Desk
from advex.explore.study import Model, Study

_HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("annotation_fixtures", _HERE.parent / "annotation" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)
lite, make, serve, enter = _shared.lite, _shared.make, _shared.serve, _shared.enter


@pytest.fixture(scope="session")
def trained() -> SimpleNamespace:
    """A small network of 8 x 8 digits, and held-out examples. classifier, data."""
    learned, data = (sets.open_dataset("digits", split=split) for split in ("train", "test"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier("mlp:features=64,classes=10,widths=32,activation=relu", class_names=data.class_names)
        optimiser = torch.optim.Adam(classifier.parameters(), lr=5e-3)
        batch = learned.batch(slice(None))
        for _ in range(10):
            for rows in torch.randperm(len(batch)).split(64):
                optimiser.zero_grad()
                cross_entropy(classifier(batch.x[rows]), batch.y[rows]).backward()
                optimiser.step()
        optimiser.zero_grad()
    return SimpleNamespace(classifier=classifier.eval(), data=data)


@pytest.fixture
def study(trained: SimpleNamespace) -> Study:
    """What the process that computes would hold."""
    return Study([Model(name="small", source="runs/small", classifier=trained.classifier)], trained.data)


@pytest.fixture(scope="session")
def run(trained: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a run folder."""
    return save(trained.classifier, tmp_path_factory.mktemp("runs") / "small", extra={"input_shape": [1, 8, 8]})


@pytest.fixture(scope="module")
def desk(run: Path) -> Iterator[Desk]:
    """One process for all: it keeps nothing."""
    named = sources.Sources(
        models=[str(run)], data="digits", split=None, wrapping={}, device="cpu", max_samples=60, seed=0
    )
    made = sources.desk(named)
    yield made
    made.close()


@pytest.fixture(scope="module")
def catalogue(desk: Desk) -> Any:
    """What it has to offer."""
    return desk.open()


@pytest.fixture(scope="module")
def served(make: SimpleNamespace, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A project of 20 images and its server with a model, for all tests of a file: it starts slowly. store, server."""
    folder = tmp_path_factory.mktemp("served")
    (folder / PICTURES).mkdir()
    store = Store(folder)
    make.fill(store, 20)
    server = _shared.Served(
        folder, "--annotator", "anna", "--model", str(run), "--data", "digits", "--max-samples", "40"
    )
    yield SimpleNamespace(store=store, server=server)
    server.stop()
    server.errors.close()
    store.close()


@pytest.fixture
def slow_study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `slow_study`, which another process can import too."""
    monkeypatch.syspath_prepend(str(_HERE / "process"))
    import slow_study  # pyright: ignore[reportMissingImports]

    return slow_study


class OwnersPage(_shared.Page):
    """The owner's browser, on the explore page once `explore` was called."""

    def explore(self) -> OwnersPage:
        """Follow the link, and wait for the pictures."""
        self.tab.click("text=Explore a model")
        self.tab.wait_for_selector("#thumbnails img")
        return self

    def says(self, text: str) -> str:
        """Until the explanation says so, and nothing is under way."""
        self.until(
            f"document.getElementById('sentences').textContent.includes({text!r})"
            " && document.getElementById('explanation').getAttribute('aria-busy') === 'false'",
            60,
        )
        return self.tab.inner_text("#sentences")


@pytest.fixture
def begin(served: SimpleNamespace, browser: Any) -> Iterator[Callable[..., OwnersPage]]:
    """The owner's browser; several times the same owner's."""
    opened: list[OwnersPage] = []

    def come(**options: Any) -> OwnersPage:
        token = people.invite_owner(served.store.database)
        opened.append(OwnersPage(browser, f"{served.server.address}/enter#{token}", **options))
        return opened[-1].explore()

    yield come
    for page in opened:
        page.context.close()
