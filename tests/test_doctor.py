"""What `advex doctor` says of packages: missing ones, old ones, and extras."""

from __future__ import annotations

import importlib.metadata

import pytest

from advex import doctor

REQUIRED = ["numpy>=2.0", "pillow>=12.3", "torch>=2.10", "fastapi>=0.120; extra == 'annotate'",
            "psycopg[binary]>=3.2; extra == 'postgres'", "kornia>=0.9; extra == 'augment'"]  # fmt: skip


def told(check: doctor.Check) -> str:
    """All of it in one line."""
    return f"{check.state}: {check.found} {check.remedy}"


def test_packages_below_their_floor_and_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"numpy": "2.0.0", "pillow": "12.10.1", "torch": "2.13.0+cpu", "fastapi": "0.121", "psycopg": "3.10rc1"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRED)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "_PACKAGES", ("numpy", "pillow"))
    assert told(doctor.packages()).startswith("ok: numpy 2.0.0, pillow 12.10.1")
    assert "missing or too old: augment (kornia>=0.9)" in told(doctor.extras())
    assert "run pip install -e '.[augment]'" in told(doctor.extras())
    installed |= {"pillow": "12.2.9", "fastapi": "0.12"}
    del installed["numpy"]
    assert told(doctor.packages()).startswith("broken: missing or too old: numpy>=2.0, pillow>=12.3 Install them:")
    assert "'pillow>=12.3'" in told(doctor.packages())
    assert "annotate (fastapi>=0.120)" in told(doctor.extras())
    assert "'.[annotate,augment]'" in told(doctor.extras())
