"""A plot as an SVG file of its own: the same drawing as on a page, in colours that follow light and dark."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from advex.drawing import FOLDER, style
from advex.drawing.boxes import BoxPlot
from advex.drawing.scatter import Scatter

_LINE = 18  # of the text above the plot, in drawing units
_FILE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="panel {kind}">
<title>{description}</title>
<style>{style}</style>
<rect class="paper" width="{width}" height="{height}"/>
{text}<g transform="translate(0 {down})">
{plot}</g>
</svg>
"""


def scatter_file(plot: Scatter, lines: Sequence[str]) -> str:
    """lines: of text, above the plot."""
    return _file(plot, "pairs-plot", _macros().scatter(plot), lines)


def box_file(plot: BoxPlot, x_title: str, lines: Sequence[str]) -> str:
    """Every box has its name above it. lines: of text, above the plot."""
    return _file(plot, "boxes", _macros().boxes(plot, x_title, True), lines)


def _file(plot: Scatter | BoxPlot, kind: str, drawn: Markup, lines: Sequence[str]) -> str:
    down = _LINE * len(lines) + 8
    text = "".join(
        f'<text class="{"said" if number else "heading"}" x="4" y="{_LINE * (number + 1)}">{escape(line)}</text>\n'
        for number, line in enumerate(lines)
    )
    return _FILE.format(
        width=plot.frame.width, height=plot.frame.height + down, kind=kind, description=escape(plot.description),
        style=_style(), text=text, down=down, plot=drawn,
    )  # fmt: skip


@functools.cache
def _macros() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("plots.html.j2").module


@functools.cache
def _style() -> str:
    """The style of plots with colours in the place of variables, which programs other than browsers do not know."""
    pairs = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", style())}
    rules = style().partition("/* Models:")[2].partition("*/")[2]
    rules = rules.replace("--model:", "color:").replace("var(--model)", "currentColor")
    light, dark = (re.sub(r"var\(--([\w-]+)\)", lambda name, at=at: pairs[name[1]][at], rules) for at in (0, 1))
    return f"svg {{ font-family: system-ui, sans-serif; }}\n{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
