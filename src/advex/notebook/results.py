"""Results that show in a notebook, tell themselves in a line, can be kept and taken on as tables."""

from __future__ import annotations

import base64
import html
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from advex.data.dataset import counted
from advex.drawing.accuracy_curve import steps
from advex.drawing.numbers import number, percent
from advex.errors import ArtifactError, InputError, SpecError, install_extra
from advex.files import as_path
from advex.lookup.folders import opened_folder
from advex.record import Figure, Record, all_figures, norm_title
from advex.report import write_report
from advex.report.names import score_title
from advex.report.reading import read

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["Evaluated", "Explained"]

_SHOWN = 8  # lines of a result that a screen reader is given


@dataclass(frozen=True, repr=False)
class Explained:
    """What one model would have to be shown, or what counts for it: the answers about some inputs, with their files.

    folder: of the files, as `advex explain` writes them. answers: what its `explanations.json` holds.
    """

    folder: Path
    answers: dict[str, Any]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The answers, one for each input: `name`, `says`, `confidences`, and `explanations` or `maps`."""
        return self.answers["inputs"]

    @property
    def sheets(self) -> list[Image.Image]:
        """The contact sheets as pictures; none of rows of tables. Raises ArtifactError where they were deleted."""
        encoded = [_still(self.folder / name).read_bytes() for name in self.answers["sheets"]]
        return [Image.open(io.BytesIO(each)) for each in encoded]

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.inputs)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.inputs[place]

    def lines(self) -> list[str]:
        """A line for each input and class that was asked about."""
        return [line for each in self.inputs for line in _lines(each)]

    def __repr__(self) -> str:
        how = self.answers.get("explainer") or ", ".join(self.answers.get("explainers", {}))
        answers = [_brief(each, answer) for each in self.inputs for answer in _answers(each)]
        shown = ", ".join([*answers[:1], *(["..."] if answers[1:] else [])])
        return f"Explained({how or 'counterfactual'}, {self._counted()}: {shown})"

    def _counted(self) -> str:
        """How many inputs of which kind."""
        files = [each.get("picture") for each in self.inputs]
        if not files[0]:
            return counted(len(files), "input" if "maps" in self.inputs[0] else "row")
        try:
            with Image.open(self.folder / files[0]) as image:
                shape = f" {3 if image.mode == 'RGB' else 1}x{image.height}x{image.width}"
        except OSError:  # the folder was moved or deleted
            shape = ""
        return f"{counted(len(files), 'picture')}{shape}"

    def _repr_html_(self) -> str:
        sheets = [self.folder / name for name in self.answers["sheets"]]
        if not sheets or not all(sheet.is_file() for sheet in sheets):
            return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in self.lines())}</ul>"
        encoded = [base64.b64encode(sheet.read_bytes()).decode() for sheet in sheets]
        alt = html.escape("; ".join(self.lines()[:_SHOWN]), quote=True)
        style = "max-width: 100%; background: white"
        return "".join(f'<img alt="{alt}" style="{style}" src="data:image/png;base64,{each}">' for each in encoded)

    def show(self) -> None:
        """Open the contact sheets in the system's viewer of pictures; print the lines where there are none."""
        for sheet in self.sheets:
            sheet.show()
        if not self.answers["sheets"]:
            print("\n".join(self.lines()))

    def plot(self, ax: Axes | None = None, *, sheet: int = 0) -> Axes:
        """Draw a contact sheet into axes of matplotlib, new ones if None. Raises SpecError for one that is missing."""
        if not 0 <= sheet < len(self.answers["sheets"]):
            raise SpecError(
                f"There are {len(self.answers['sheets'])} sheets, counted from 0; there is no sheet {sheet}."
            )
        ax = _axes(ax)
        ax.imshow(np.asarray(self.sheets[sheet]))
        ax.set_axis_off()
        return ax

    def save(self, folder: str | Path) -> Path:
        """Copy all files into a folder, which must be empty or new. Raises SpecError where it is not."""
        return _copied(self.folder, as_path(folder, "The folder of save"))

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each input and explanation: name, label, says, and what was measured."""
        rows = []
        for each in self.inputs:
            about = {"name": each["name"], "label": each["label"], "says": each["says"]}
            for answer in each.get("explanations", []) + each.get("maps", []):
                rows.append({**about, **{key: value for key, value in answer.items() if not isinstance(value, dict)}})
        return _frame(rows)


def _answers(each: dict[str, Any]) -> list[dict[str, Any]]:
    return [*each.get("explanations", []), *each.get("maps", [])]


def _lines(each: dict[str, Any]) -> list[str]:
    lines = []
    for answer in _answers(each):
        if "sentences" in answer:
            lines += [f"{each['name']}: {sentence}" for sentence in answer["sentences"]]
        elif "gini" in answer:
            lines.append(f"{each['name']}, {each['says']}: {answer['explainer']} of {_gini(answer)}")
        else:
            lines.append(f"{each['name']}, {each['says']}: {answer['target_name']} {_percentages(answer)}")
    return lines


def _brief(each: dict[str, Any], answer: dict[str, Any]) -> str:
    """An answer in few words: `cat -> dog 2 % -> 91 %`."""
    if "sentences" in answer:
        return answer["sentences"][0]
    if "gini" in answer:
        return _gini(answer)
    start = "" if answer["target_name"] == each["says"] else f"{each['says']} -> "
    return f"{start}{answer['target_name']} {_percentages(answer, 0)}"


def _percentages(answer: dict[str, Any], digits: int = 1) -> str:
    return " -> ".join(percent(answer[key][answer["target"]], digits) for key in ("before", "after"))


def _gini(answer: dict[str, Any]) -> str:
    return f"{answer['target_name']}, Gini {'undefined' if answer['gini'] is None else number(answer['gini'], 3)}"


@dataclass(frozen=True, repr=False)
class Evaluated:
    """Models measured on data: a record and its folder."""

    folder: Path
    record: Record = field(repr=False)

    def __getitem__(self, model: str) -> dict[str, Figure]:
        """All figures of a model by their keys, such as `accuracy` and `attack_ara`. Raises InputError."""
        for entry in self.record.models:
            if entry.name == model:
                return all_figures(entry)
        names = ", ".join(entry.name for entry in self.record.models)
        raise InputError(f"There is no model '{model}' in this record: it has {names}.")

    def __str__(self) -> str:
        return "\n".join(": ".join((name, ", ".join(cells))) for name, cells in self._cells())

    def __repr__(self) -> str:
        accuracies = [f"{entry.name} {percent(entry.scores['accuracy'].value, 0)}" for entry in self.record.models
                      if "accuracy" in entry.scores]  # fmt: skip
        data = f"{counted(self.record.data.examples, 'example')} of {self.record.data.name}"
        return f"Evaluated({data}, accuracy: {', '.join(accuracies)})" if accuracies else f"Evaluated({data})"

    def _cells(self) -> Iterator[tuple[str, list[str]]]:
        for entry in self.record.models:
            cells = []
            for key, figure in entry.scores.items():
                title = score_title(key, self.record)
                cells.append(f"{title} {figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]")
            yield entry.name, cells

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
            for name, cells in self._cells()
        )
        flags = "".join(
            f"<li>{html.escape(f'{flag.model}: {flag.message} {flag.remedy}')}</li>"
            for flag in self.record.flags
            if flag.severity == "warning"
        )
        return f"<table>{rows}</table><ul>{flags}</ul><p>{html.escape(str(self.folder))}</p>"

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self.record.models)

    def __len__(self) -> int:
        return len(self.record.models)

    def show(self) -> None:
        """Print a line for each model."""
        print(self)

    def save(self, folder: str | Path) -> Path:
        """Copy the record into a folder, which must be empty or new. Raises SpecError where it is not."""
        return _copied(self.folder, as_path(folder, "The folder of save"))

    def plot(self, ax: Axes | None = None, *, search: str = "attack") -> Axes:
        """Draw each model's accuracy over the size of the change into axes of matplotlib, new ones if None.

        search: whose changes, by its key in the record. Raises SpecError where no model has been searched by it.
        """
        contents = read(_still(self.folder), ("examples",))
        curves = {name: radii for name in self if (radii := contents.radii(name, search)) is not None}
        if not curves:
            raise SpecError(
                f"This record has no search '{search}': it has {', '.join(self.record.searches) or 'none'}."
            )
        ax = _axes(ax)
        for name, radii in curves.items():
            ax.step(*steps(radii), where="post", label=name)
        ax.axhline(self.record.data.chance, color="0.6", linestyle=":", label="chance")
        ax.set(xlabel=norm_title(self.record.norm(search)), ylabel="accuracy", ylim=(0, 1))
        ax.legend()
        return ax

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report; returns the path of the HTML file, `report.html` in the folder if `out` is None."""
        return write_report(_still(self.folder), None if out is None else Path(out))

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each model and figure: value, low, high, n, failures."""
        rows = [
            {"model": entry.name, "figure": key, **figure.model_dump(include={"value", "low", "high", "n", "failures"})}
            for entry in self.record.models
            for key, figure in all_figures(entry).items()
        ]
        return _frame(rows)


def _still(path: Path) -> Path:
    """A file or folder of a result. Raises ArtifactError where it is no longer there."""
    if not path.exists():
        raise ArtifactError(
            f"{path} was moved or deleted, and this result needs it: make the result again.", absent=True
        )
    return path


def _copied(source: Path, folder: Path) -> Path:
    """The files of a result in a folder, which must be empty or new. Raises SpecError, ArtifactError."""
    with opened_folder(folder, (), None):
        shutil.copytree(_still(source), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    return folder


def _axes(ax: Axes | None) -> Axes:
    from matplotlib import pyplot  # heavy: only when something is drawn

    return pyplot.figure().gca() if ax is None else ax


def _frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise SpecError(f"to_pandas needs pandas: {install_extra('notebook')}") from None
    return pandas.DataFrame(rows)
