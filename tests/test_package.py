"""The package: what is in the wheel, what its extras bring, and that every version is pinned."""

from __future__ import annotations

import email
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from advex import __version__

ROOT = Path(__file__).parents[1]
LARGEST = 25 * 2**20
EXTRAS = {"annotate", "augment", "hub", "postgres", "tensorboard", "notebook"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_is_small_and_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert Path(wheel.filename or "").stat().st_size <= LARGEST
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if listed:
        assert inside == {name.removeprefix("src/") for name in listed.splitlines() if (ROOT / name).is_file()}
    assert {"advex/py.typed", "advex/bundled/cifar10-robust/model.safetensors"} <= inside


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    described = email.message_from_bytes(wheel.read(name))
    assert described["Version"] == __version__
    assert set(described.get_all("Provides-Extra", [])) >= EXTRAS
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert "advex = advex.cli:main" in wheel.read(name).decode()


def test_everything_that_may_be_installed_is_pinned() -> None:
    """From the requirements of every extra on, as far as the packages are installed here."""
    texts = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    waiting = [Requirement(text) for text in texts]
    seen: set[tuple[str, str]] = {("advex", "")}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen or name == "advex":
                continue
            seen.add((name, extra))
            assert name in PINS, f"{requirement} has no exact version in constraints.txt"
            assert requirement.specifier.contains(PINS[name], prereleases=True), (
                f"{requirement}, but {PINS[name]} is pinned"
            )
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            for each in map(Requirement, needed):
                if each.marker is None or each.marker.evaluate({"extra": extra}):
                    waiting.append(each)


def test_nobody_is_told_to_install_a_name_that_is_not_ours() -> None:
    """Until there is a release, `pip install advex` may bring anything."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*"), *ROOT.glob("src/**/*.py")]
    for path in files:
        assert not re.search(r"install\s+(-\S+\s+)*['\"]?advex(?!-\d)\b", path.read_text(encoding="utf-8")), path
