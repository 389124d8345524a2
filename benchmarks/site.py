"""What `make docs` adds to the pages of `docs/`: the notebooks with their outputs, the files beside README, all names.

A hook of MkDocs (`mkdocs.yml`). Links between files of the repository become links between pages of the site.
"""

from __future__ import annotations

import html
import importlib
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

from advex import registry

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages of the site.
PAGES = {
    f"{name}.md": f"{name.lower()}.md" for name in ("NUMBERS", "CHANGELOG", "SECURITY", "CONTRIBUTING", "RELEASING")
} | {"README.md": "index.md"}
KINDS = (
    "attack", "goal", "explainer", "measure", "distance", "norm", "objective", "network", "dataset", "corruption",
    "recipe", "builtin", "paper",
)  # fmt: skip
LINK = re.compile(r"(\[[^\]]*\])\(([^)#\s:]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items() if name != "README.md"}
    made |= {f"examples/{path.stem}.md": notebook(path) for path in sorted(ROOT.glob("examples/*.ipynb"))}
    made |= {f"reference/{kind}s.md": names(kind) for kind in KINDS}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository lead to their pages; what is not on the site is named and not linked."""
    here = page.file.src_uri

    def target(match: re.Match[str]) -> str:
        words, path, anchor = match[1], match[2], match[3] or ""
        plain = re.sub(r"^(\.\./)+", "", path)
        if plain in PAGES:
            return f"{words}({'../' * here.count('/')}{PAGES[plain]}{anchor})"
        if plain.startswith("docs/"):
            return f"{words}({'../' * here.count('/')}{plain.removeprefix('docs/')}{anchor})"
        if path.endswith(".ipynb"):
            return f"{words}({'' if here.startswith('examples/') else 'examples/'}{Path(path).stem}.md{anchor})"
        if path.startswith("../") and not here.count("/"):
            return words[1:-1]
        return match[0]

    return LINK.sub(target, markdown)


def notebook(path: Path) -> str:
    """A page of the notebook's cells and of what they gave."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts += [f"```python\n{source}\n```", *map(shown, cell["outputs"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def shown(output: dict[str, Any]) -> str:
    """One output of a cell, as HTML."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if "text/html" in data:
        inside = data["text/html"]
    elif "image/png" in data:
        inside = (
            f'<img alt="The figure that the code above draws" src="data:image/png;base64,{data["image/png"].strip()}">'
        )
    elif text := data.get("text/plain") or "".join(output.get("text", "")):
        inside = f"<pre>{html.escape(text)}</pre>"
    else:
        return ""
    lines = "\n".join(line for line in inside.splitlines() if line.strip())  # an empty line would end the HTML
    return f'<div class="output">\n{lines}\n</div>'


TITLES = {
    "dataset": "Data sets", "builtin": "Bundled models", "objective": "Training objectives",
    "distance": "Distances between maps",
}  # fmt: skip


def names(kind: str) -> str:
    """A page of all things of a kind: what they are, and their options."""
    title = TITLES.get(kind, f"{kind.capitalize()}s")
    parts = [f"# {title}", f"What `advex list {kind}` shows, with everything that is said of each."]
    for name, entry in registry.entries(kind).items():
        parts.append(f"## {name}")
        if entry.listing:
            facts = {key: escaped(str(value)) for key, value in entry.listing.facts().items()}
            parts += [escaped(entry.summary), table("", facts)]
        else:
            public = f"advex.{entry.module.split('.')[1]}.{getattr(entry.make, '__name__', '')}"
            if is_name_of(public, entry.make):
                parts.append(f"In Python: `{public}`")
            options = entry.options()
            prose, meanings = split(inspect.getdoc(entry.make) or "", tuple(options))
            rows = {key: f"{default(at)} | {escaped(meanings.get(key, ''))}" for key, at in options.items()}
            parts += [escaped(prose), table(" default | meaning |", rows)]
        parts.append(f"After {escaped(entry.cites)}." if entry.cites else "")
    return "\n\n".join(filter(None, parts)) + "\n"


def table(head: str, rows: dict[str, str]) -> str:
    """A table whose first column names options; nothing where there are none."""
    if not rows:
        return ""
    columns = head.count("|") or 1
    top = f"| option |{head}" if head else "| | |"
    lines = [f"| `{key}` | " + " | ".join(part.replace("|", "&#124;") for part in row.split(" | ", columns - 1)) + " |"
             for key, row in rows.items()]  # fmt: skip
    return "\n".join([top, "|---|" + "---|" * columns, *(line.replace("\n", " ") for line in lines)])


def default(option: inspect.Parameter) -> str:
    """Its default as a spec string has it."""
    return "must be given" if option.default is option.empty else f"`{registry.write_value(option.default)}`"


def is_name_of(public: str, thing: Any) -> bool:
    """Whether a dotted name leads to a thing."""
    module, _, name = public.rpartition(".")
    return getattr(importlib.import_module(module), name, None) is thing


def split(text: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A docstring without what it says of its parameters ("steps: gradients. a, b: ..."), and that, by their names."""
    if not names:
        return text, {}
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    head = re.compile(rf"(?:^|(?<=[.;)] ))((?:{known})(?:(?:,| and) (?:{known}))*): ")
    prose, meanings = [], {}
    for paragraph in re.split(r"\n\s*\n", text):
        flat = paragraph if ">>>" in paragraph else re.sub(r"\s*\n\s*", " ", paragraph)
        before, *pairs = head.split(flat)
        rest = ""
        for words, meaning in zip(pairs[::2], pairs[1::2], strict=True):
            meaning, *last = re.split(r"(?<=\.) (?=Raises |Returns )", meaning, maxsplit=1)
            meanings |= dict.fromkeys(re.findall(r"\w+", words.replace(" and ", ", ")), meaning.strip())
            rest = " ".join([rest, *last]).strip()
        prose += [part for part in (before.strip(), rest) if part]
    return "\n\n".join(prose), meanings


def escaped(text: str) -> str:
    """Prose of a docstring as Markdown: code in backticks and examples alone keep their meaning."""
    parts = re.split(r"(`[^`\n]+`|```pycon\n.*?```)", fenced(text), flags=re.DOTALL)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*\\\[\]])", r"\\\1", html.escape(part, quote=False))
        for part in parts
    )


def fenced(text: str) -> str:
    """A docstring whose examples are code."""
    return re.sub(r"(?m)(^>>> .*(?:\n(?!\s*$).+)*)", r"```pycon\n\1\n```", text)


class Readable(griffe.Extension):
    """Docstrings of the Python page: parameters in a list, examples as code."""

    def on_function(self, *, func: Any, **_: Any) -> None:
        """Of functions and methods."""
        self.listed(func, [each.name for each in func.parameters])

    def on_class(self, *, cls: Any, **_: Any) -> None:
        """Of classes, whose attributes are told like parameters."""
        self.listed(cls, [*cls.attributes, *(each.name for each in cls.parameters)])

    def listed(self, thing: Any, names: Sequence[str]) -> None:
        if thing.docstring:
            prose, meanings = split(inspect.cleandoc(thing.docstring.value), tuple(names))
            lines = [f"- `{name}`: {escaped(meaning)}" for name, meaning in meanings.items()]
            thing.docstring.value = "\n\n".join(filter(None, [escaped(prose), "\n".join(lines)]))
