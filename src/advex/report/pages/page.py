"""Everything put into one page. The templates escape every name; the page holds no script and asks for nothing."""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from advex import record as schema
from advex._version import __version__
from advex.drawing import numbers
from advex.record.tables import maps_of
from advex.report.reading import Contents, RunCurves, runs_of
from advex.report.sections import training
from advex.report.sections.certified import certified_section
from advex.report.sections.curves import panels
from advex.report.sections.figures import difference_lines, main_table, search_table
from advex.report.sections.findings import findings
from advex.report.sections.maps import maps_section
from advex.report.sections.pictures import PICTURE_BYTES, sections
from advex.report.sections.rows import rows_section

_HERE = Path(__file__).parents[1]
_ASKED = {
    "grid_toward": "Towards a class: says it",
    "grid_away": "Away from a class: says another",
    "sweep_toward": "In the sweep: says the class",
}
SKIPPED = 50  # skipped files named on the page at most


def render(contents: Contents, picture_bytes: int = PICTURE_BYTES) -> str:
    """The page of a record. picture_bytes: room for pictures; fewer examples are shown when they need more."""
    return _page("page.html.j2", version=contents.record.advex, **_content(contents, picture_bytes))


def render_runs(runs: Sequence[RunCurves]) -> str:
    """The page of run folders alone: how the training goes, or went."""
    return _page(
        "run.html.j2",
        version=__version__,
        title=f"Training of {numbers.joined(run.name for run in runs)}",
        files=_training_files(runs),
        **_courses(runs),
    )


def render_reproduction(content: dict[str, Any]) -> str:
    """The page of a paper's tables, published and measured. content: see `advex.report.pages.reproduction`."""
    return _page("reproduction.html.j2", version=content["found"].advex, **content)


def render_explored(content: dict[str, Any]) -> str:
    """The page of explanations that were kept while exploring. content: see `advex.report.pages.explored`."""
    return _page("explored.html.j2", version=__version__, title="Explanations that were kept", **content)


def policy() -> str:
    """The content security policy of every page: for a server that sends one as it is."""
    allowed = f"default-src 'none'; img-src data:; style-src '{_sha256(_style())}'"
    return f"{allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _style() -> str:
    return (_HERE / "style.css").read_text(encoding="utf-8")


def _page(template: str, **content: Any) -> str:
    style = _style()
    return _templates().get_template(template).render(style=Markup(style), style_hash=_sha256(style), **content)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"date": numbers.date, "duration": numbers.duration, "percent": numbers.percent}
    environment.filters |= {"short": numbers.short, "setting": _setting, "groups": _groups}
    environment.globals |= {"count": numbers.count}
    return environment


def _content(contents: Contents, picture_bytes: int) -> dict[str, Any]:
    record = contents.record
    explained = () if contents.answers else sections(contents, picture_bytes)  # rows are told in sentences
    return {
        "record": record,
        "contents": contents,
        "title": f"{numbers.joined(model.name for model in record.models)} on {record.data.name}",
        "findings": findings(contents),
        "flags": _groups(record.flags),
        "warned": Counter(flag.model for flag in record.flags if flag.severity == "warning"),
        "table": main_table(contents, published=False),
        "published": main_table(contents, published=True),
        "searches": search_table(contents),
        "differences": difference_lines(record),
        "reached": _reached(record),
        "panels": panels(contents),
        "certified": certified_section(contents),
        "maps": maps_section(contents),
        "rows": rows_section(contents),
        "sections": explained,
        "trimmed": [section for section in explained if len(section.sheets) < section.total],
        "skipped": record.data.skipped[:SKIPPED],
        "files": _files(contents),
        "json": _json(record),
        **_courses(runs_of(record)),
    }  # fmt: skip


def _courses(runs: Sequence[RunCurves]) -> dict[str, Any]:
    """How the models were trained. learnt: how many things one should see in that."""
    courses = training.courses(runs)
    learnt = sum(len(course.flags) for course in courses)
    attacked = any(run.measured("robust_accuracy") for run in runs)
    how = {"own_epochs": training.own_epochs(runs), "attacked": attacked}
    return {"courses": courses, "how": how, "learnt": learnt}


def _groups(flags: Iterable[schema.Flag]) -> list[tuple[tuple[str, str, str], list[schema.Flag]]]:
    """The flags by (severity, code, remedy), warnings first: what several models share is said once."""
    groups: dict[tuple[str, str, str], list[schema.Flag]] = {}
    for flag in sorted(flags, key=lambda flag: flag.severity != "warning"):
        groups.setdefault((flag.severity, flag.code, flag.remedy), []).append(flag)
    return list(groups.items())


def _reached(record: schema.Record) -> tuple[list[tuple[str, str]], list[tuple[int, str, list[str]]]]:
    """How many explanations got where they wanted: the columns (key, title), and a row of figures per model."""
    keys = list(dict.fromkeys(key for model in record.models for key in model.rho_reached))
    lines = []
    for index, model in enumerate(record.models):
        figures = (model.rho_reached.get(key) for key in keys)
        lines.append((index, model.name, ["–" if figure is None else _share(figure) for figure in figures]))
    return [(key, _ASKED.get(key) or key.replace("_", " ").capitalize()) for key in keys], lines


def _share(figure: schema.Figure) -> str:
    low, high = (numbers.number(100 * bound, 1) for bound in (figure.low, figure.high))
    return f"{numbers.percent(figure.value)} [{low}, {high}] of {figure.n:,}"


def _setting(value: Any) -> str:
    """A setting as text: words as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _sha256(text: str) -> str:
    """What a content security policy calls a source's hash."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _json(record: schema.Record) -> str:
    return record.model_dump_json(indent=1)


def _files(contents: Contents) -> list[tuple[str, str, str]]:
    """What can be saved from the page: (file name, what it is, data URI)."""
    record = contents.record
    figures = [("model", "measure", "value", "low", "high", "n", "failures")]
    figures += [
        (model.name, name, f.value, f.low, f.high, f.n, f.failures)
        for model in record.models
        for name, f in schema.all_figures(model).items()
    ]
    figures += [
        (f"{d.first} minus {d.second}", d.measure, f.value, f.low, f.high, f.n, f.failures)
        for d in record.differences
        for f in (d.figure,)
    ]
    figures += [
        (model.name, f"certified_{name}", f.value, f.low, f.high, f.n, f.failures)
        for model in record.models
        if model.certified is not None
        for name in ("network_accuracy", "attack_ara", "gap")
        for f in (getattr(model.certified, name.removeprefix("network_")),)
    ]
    files = [
        ("figures.json", "all figures and how they were made", _uri("application/json", _json(record))),
        ("figures.csv", "figures with their intervals", _uri("text/csv", _csv(figures))),
    ]
    if contents.explanations:
        columns = ("model", "example", "purpose", "explainer", "target", "rho", "rmse", "prediction", "png_prediction")
        rows: list[tuple] = [(*columns, "before", "after", "png_after")]
        for row in contents.explanations:
            shares = [_at(row[name], row["target"]) for name in ("before", "after", "png_after")]
            rows.append((*(row[name] for name in columns), *shares))
        files.append(("explanations.csv", "confidences of every explanation", _uri("text/csv", _csv(rows))))
    if contents.answers:
        columns = tuple(schema.TABLES["answers"])
        table = [columns, *(tuple(row[name] for name in columns) for row in contents.answers)]
        files.append(("answers.csv", "what would have had to be different", _uri("text/csv", _csv(table))))
    if contents.maps:
        columns = tuple(name for name in maps_of(record.measures) if name != "map")
        table = [columns, *(tuple(row.get(name) for name in columns) for row in contents.maps)]
        files.append(("maps.csv", "how concise every map is", _uri("text/csv", _csv(table))))
    return files + _training_files(runs_of(record))


def _training_files(runs: Sequence[RunCurves]) -> list[tuple[str, str, str]]:
    if not any(run.last for run in runs):
        return []
    return [("training.csv", "all values that the runs noted", _uri("text/csv", _csv(training.rows(runs))))]


def _at(shares: list[float] | None, target: int) -> float | str:
    return shares[target] if shares is not None and 0 <= target < len(shares) else ""


def _csv(rows: list[tuple]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _uri(kind: str, text: str) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode('utf-8')).decode('ascii')}"
