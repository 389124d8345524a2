"""Drawings for pages and files, from numbers alone: plots as SVG, maps and changes as pictures. One set of colours.

    numbers         figures in digits
    axes            linear and logarithmic axes for values of any size
    plot            frames, marks and paths of plots
    accuracy_curve  accuracy against the size of the change
    boxes           differences example by example
    ranges          values with intervals, beside baselines
    scatter         two quantities against each other, and the front of the best
    svg             a plot as a file of its own
    pictures        PNG as data URIs, differences, zoom
    heat            maps as pictures
    contact_sheet   pictures in rows, with lines of text below each

`plots.html.j2` draws the plots, `plots.css` has the colours of everything, each a pair for light and dark.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def style() -> str:
    """The colours, and the style of all plots."""
    return (FOLDER / "plots.css").read_text(encoding="utf-8")
