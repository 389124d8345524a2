"""YAML and JSON texts: what plain ones hold, and hostile ones refused at once with one short sentence."""

from __future__ import annotations

import datetime
import os
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from advex import registry
from advex.cli import main
from advex.data import open_dataset
from advex.documents import DEEPEST, parse_json, parse_yaml, read_json, read_yaml
from advex.errors import AdvexError, ArtifactError, DataError, SpecError
from advex.papers import read as read_paper
from advex.recipes import read as read_recipe

scalars = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text(string.printable, max_size=8) | st.dates()
trees = st.recursive(
    scalars, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3)
)


@given(trees)
def test_what_is_written_as_yaml_is_read_back(tree: Any) -> None:
    text = yaml.dump(tree, Dumper=_NoAliases)
    assert parse_yaml(text, "here") == tree


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def test_scalars_are_typed_or_stay_as_they_were_typed() -> None:
    text = "{a: 01, b: no, c: 2001-02-03, d: ~, e: 1.50}"
    assert parse_yaml(text, "here") == {"a": 1, "b": False, "c": datetime.date(2001, 2, 3), "d": None, "e": 1.5}
    assert parse_yaml(text, "here", typed=False) == {"a": "01", "b": "no", "c": "2001-02-03", "d": "~", "e": "1.50"}


def nested(levels: int, width: int) -> str:
    """The "billion laughs": `width` ** `levels` values in a few hundred bytes."""
    text = "[" + ",".join("x" * width) + "]"
    for level in range(levels):
        text = f"[&a{level} {text}" + f",*a{level}" * (width - 1) + "]"
    return text


HOSTILE = {
    "laughs": (nested(12, 9), "an alias"),
    "merge": ("a: &a {k: 1}\nb: &b\n  <<: [*a, *a]\n", "an alias"),
    "itself": ("a: &a [*a]", "an alias"),
    "deep": ("[" * 3000 + "]" * 3000, "nested too deeply"),
    "deep mapping": ("{a: " * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "nested too deeply"),
    "twice": ("epochs: 1\nepochs: 2", "'epochs' is given twice"),
    "the same number twice": ("1: a\n0x1: b", "'1' is given twice"),
    "bool": ("flip: !!bool x", "does not fit its tag"),
    "int": ("epochs: !!int ''", "not valid YAML"),
    "time": ("epochs: !!timestamp abc", "does not fit its tag"),
    "no such day": ("epochs: 2001-99-99", "not valid YAML"),
    "digits": ("epochs: 0x" + "f" * 5000, "a number of 20,000 bits"),
    "decimal digits": ("epochs: " + "9" * 5000, "not valid YAML"),
    "code": ("!!python/object/apply:os.system [ls]", "not valid YAML"),
    "list as key": ("? [a]\n: 1", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "control": ("a: \x07", "not valid YAML"),
    "open": ("a: [", "not valid YAML"),
    "long name of an alias": ("a: *" + "b" * 100_000, "alias"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_with_one_short_sentence(name: str) -> None:
    text, words = HOSTILE[name]
    with pytest.raises(SpecError, match=words) as refused:
        parse_yaml(text, "the file", SpecError)
    message = str(refused.value)
    assert len(message) < 400
    assert message.isprintable()


def test_a_long_text_is_quoted_in_part() -> None:
    with pytest.raises(SpecError) as refused:
        registry.parse_value("[" + "x" * 100_000)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("text", ["!!bool x", "!!timestamp abc", "!!int ''", "*a", "0x" + "f" * 5000])
def test_values_typed_on_the_command_line_are_read_by_the_same_rules(text: str) -> None:
    with pytest.raises(SpecError, match="The value"):
        registry.parse_value(text)


def _table(path: Path) -> Any:
    path.with_suffix(".csv").write_text("a,b,label\n1,2,x\n3,4,y\n")
    return open_dataset(path)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", [lambda path: read_recipe(str(path)), lambda path: read_paper(str(path)), _table])
def test_everything_that_is_read_from_yaml_is_read_by_the_same_rules(
    tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(HOSTILE[name][0])
    with pytest.raises(AdvexError) as refused:
        read(path)
    assert len(str(refused.value)) < 600


def test_a_value_of_a_recipe_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["advex", "train", "digits-ordinary", "flip=!!bool x", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("{", "truncated or is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_hostile_json_is_refused_with_one_short_sentence(text: str | bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as refused:
        parse_json(text, "the file", ArtifactError)
    assert len(str(refused.value)) < 400


def test_files_are_bounded_and_are_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: 1")
    assert read_yaml(path, "a recipe") == {"a": 1}
    with pytest.raises(DataError, match="5 bytes, the limit for a recipe"):
        read_yaml(path, "a recipe", largest=5)
    path.write_bytes(b"a: \xff")
    with pytest.raises(DataError, match="not UTF-8"):
        read_yaml(path, "a recipe")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "none.json", "a record")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a file"):
        read_json(tmp_path / "pipe", "a record")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: [1, 2\nlr: 3\n", r"line \d, column \d: a list \[\.\.\.\] or a mapping"),
        ("a: b: c\n", r"line 1, column 5: unexpected colon"),
        ("a: 1\n\tb: 2\n", r"line 2, column 1: unexpected tab or special character"),
        ('a: "b\n', r"a quoted text is not closed"),
        ('a: "\\q"\n', r"after a backslash in double quotes"),
        ("- a\nb: 1\n", r"line 2, column 1: items of the same list are indented differently|KEY: VALUE"),
        ("a: 1\n  b: 2\n", r"unexpected colon"),
        ("a: !!python/object:os.system x\n", r"tags \(!\.\.\.\) are not supported"),
        ("a: 1\n---\nb: 2\n", r"more than one document"),
    ],
)
def test_what_is_wrong_with_yaml_is_said_in_our_words(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        parse_yaml(text, "my.yaml")
    assert "unicode string" not in str(caught.value)
    assert "while " not in str(caught.value)
