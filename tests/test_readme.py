"""The README's Python runs as printed, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 32), "red").save("my.jpg")
    names: dict[str, object] = {}
    for block in blocks:
        block = re.sub(r"(?<=Algorithm1\(steps=)450|(?<=Minimal\(gradients=)100", "40", block)  # longer, it is the same
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    capsys.readouterr()
    # What the text beside the code says of it.
    e, p, s = names["e"], names["p"], names["s"]
    assert torch.allclose(e.rmse, torch.full((4,), 0.1), atol=1e-4)  # pyright: ignore
    assert p.reached.all()  # pyright: ignore
    assert s.low <= s.value <= s.high  # pyright: ignore


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_two_commands_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE), command
