"""The templates of all pages and sections, and the one style. Every name is escaped; a page has no script."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from advex import drawing
from advex.drawing import numbers
from advex.report.names import words

_FOLDERS = [Path(__file__).parent, drawing.FOLDER]


@functools.cache
def environment() -> jinja2.Environment:
    """Finds templates in this folder and in that of the drawings; an unknown variable is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDERS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"date": numbers.date, "duration": numbers.duration, "percent": numbers.percent}
    made.filters |= {"short": numbers.short, "setting": _setting, "words": words}
    made.globals |= {"count": numbers.count}
    return made


def page(template: str, **content: Any) -> str:
    """A whole page."""
    return environment().get_template(template).render(style=Markup(style()), style_hash=_hash(style()), **content)


@functools.cache
def style() -> str:
    """The style of every page: colours and plots, then the rest."""
    return f"{drawing.style()}\n{(_FOLDERS[0] / 'style.css').read_text(encoding='utf-8')}"


def policy() -> str:
    """The content security policy of every page: for a server that sends one as it is."""
    allowed = f"default-src 'none'; img-src data:; style-src '{_hash(style())}'"
    return f"{allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def data_uri(kind: str, text: str) -> str:
    """A text file written into the page. kind: its media type."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode('utf-8')).decode('ascii')}"


def _hash(text: str) -> str:
    """What a content security policy calls a source's hash."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _setting(value: Any) -> str:
    """A setting as text: words as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
