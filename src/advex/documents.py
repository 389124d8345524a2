"""YAML and JSON as plain values: bounded in size, depth and digits, and refused with one short sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from advex.errors import AdvexError, DataError, quoted
from advex.files import read_bytes

if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import BaseLoader, SafeLoader
else:  # the same, ten times faster
    from yaml import CBaseLoader as BaseLoader
    from yaml import CSafeLoader as SafeLoader

DEEPEST = 40  # lists and mappings inside each other; our own files have about six
_MOST_BITS = 1024  # of a whole number: Python refuses to write down one of more than some 14,000
_LONGEST_REASON = 200
# PyYAML's words -> ours.
_PROBLEMS = {
    "',' or '[]}]'|flow": "a list [...] or a mapping {...} is not closed, or a comma is missing in it",
    "mapping values are not allowed": "unexpected colon: check the indentation, and quote texts that contain ': '",
    "expected ':'|expected key|could not find": "write KEY: VALUE, all keys equally indented, and double inner quotes",
    "block end|block entry|block sequence entries|'-' indicator": "items of the same list are indented differently",
    "cannot start any token|tab character": "unexpected tab or special character: indent with spaces, quote texts",
    "end of stream|quoted scalar|document separator": "a quoted text is not closed",
    "escape": "invalid escape after a backslash in double quotes: use single quotes",
    "tag": "tags (!...) are not supported: write plain values",
    "document": "the file contains more than one document: remove '---'",
}


def read_yaml(
    path: Path, what: str, error: type[AdvexError] = DataError, *, largest: int = 2**20, typed: bool = True
) -> Any:
    """What a YAML file holds. what: it should be, for the message of a file that is too large. Raises `error`."""
    return parse_yaml(_text(path, what, error, largest), str(path), error, typed=typed)


def read_json(path: Path, what: str, error: type[AdvexError] = DataError, *, largest: int = 2**26) -> Any:
    """What a JSON file holds: see `read_yaml`, `parse_json`. Raises `error`."""
    return parse_json(_text(path, what, error, largest), str(path), error)


def parse_yaml(text: str, where: str, error: type[AdvexError] = DataError, *, typed: bool = True) -> Any:
    """The one document in a YAML text, without aliases and without a key that is given twice.

    typed: numbers, dates, true, false and null are read as such; else every scalar stays the text that was typed.
    where: the file, say, to begin the message with. Raises `error` for all else.
    """
    try:
        _check_events(text)
        loader = (_Typed if typed else _Texts)(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except MemoryError:
        raise
    except Exception as reason:  # a tag makes PyYAML raise whatever its text does not fit
        raise error(f"{where} is not valid YAML: {_reason(reason)}.") from None


def parse_json(text: str | bytes, where: str, error: type[AdvexError] = DataError) -> Any:
    """What a JSON text holds; no key may be given twice in one object. Raises `error`."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as reason:  # text that is no UTF-8, too, and numbers of thousands of digits
        raise error(f"{where} is truncated or is not JSON: {_reason(reason)}.") from None


def _text(path: Path, what: str, error: type[AdvexError], largest: int) -> str:
    try:
        return read_bytes(path, largest, what, error).decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not UTF-8 text (byte {reason.start:,}).") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        _refuse_twice([key for key, _ in pairs])
    return values


def _refuse_twice(keys: list[Any]) -> NoReturn:
    seen: set[Any] = set()
    twice = next(key for key in keys if key in seen or seen.add(key))
    raise ValueError(f"the key {quoted(str(twice))} is given twice")


def _reason(reason: Exception) -> str:
    """What a parser says, in one line of bounded length."""
    if isinstance(reason, RecursionError):
        return "it is nested too deeply"
    if not isinstance(reason, yaml.YAMLError | ValueError):
        return "a value does not fit its tag"
    if isinstance(reason, yaml.MarkedYAMLError) and reason.problem:
        problem = next((words for pattern, words in _PROBLEMS.items() if re.search(pattern, reason.problem)), "")
        mark = reason.problem_mark or reason.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return where + (problem or quoted(reason.problem, _LONGEST_REASON)[1:-1])
    line = " ".join(str(reason)[: 4 * _LONGEST_REASON].split()) or type(reason).__name__
    return quoted(line.rstrip("."), _LONGEST_REASON)[1:-1]


# -- YAML ----------------------------------------------------------------------------------------------------


def _check_events(text: str) -> None:
    """Raise ValueError for aliases and for depth, before anything is built: a few aliases stand for gigabytes."""
    depth = 0
    for event in yaml.parse(text, SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ValueError(f"line {line} has an alias, *{event.anchor[:40]}; write out its value")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecursionError


class _KeysOnce:
    """A loader that refuses a mapping in which a key is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        values = super().construct_mapping(node, deep=deep)  # pyright: ignore[reportAttributeAccessIssue]
        if len(values) < len(node.value):
            _refuse_twice([self.construct_object(key, deep=True) for key, _ in node.value])  # pyright: ignore
        return values


class _Typed(_KeysOnce, SafeLoader):
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > _MOST_BITS:
            raise ValueError(f"line {node.start_mark.line + 1} has a number of {value.bit_length():,} bits")
        return value


_Typed.add_constructor("tag:yaml.org,2002:int", _Typed.construct_yaml_int)


class _Texts(_KeysOnce, BaseLoader):
    pass
