"""The rule of versions: files of an earlier schema are brought up to date as they are read, later ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from advex.documents import read_json
from advex.errors import ArtifactError, why_impossible

Values = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


def upgraded(values: Values, path: Path, schema: int, steps: Mapping[int, Callable[[Values], None]]) -> Values:
    """A file's values as of the schema `schema`.

    steps: by version, what changes values of that version into those of the next, in place. A file without
    `schema_version` is of the first. Raises ArtifactError, naming both versions, for one of a later schema.
    """
    version = values.get("schema_version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{path} has an invalid schema version: {version!r}.")
    if version > schema:
        maker = values.get("advex")
        raise ArtifactError(
            f"{path} was written by a newer advex (schema {version}; this one reads up to {schema}): update advex"
            + (f", or use {maker}, which made it." if isinstance(maker, str) else ".")
        )
    for before in range(version, schema):
        if before in steps:
            steps[before](values)
    return values | {"schema_version": schema}


def read_versioned(
    path: Path, model: type[Model], schema: int, steps: Mapping[int, Callable[[Values], None]], what: str
) -> Model:
    """A JSON file of any schema up to `schema`. what: it should be, e.g. "a record". Raises ArtifactError."""
    try:
        values = read_json(path, what, ArtifactError)
        if not isinstance(values, dict):
            raise TypeError("it is not an object")
        return model.model_validate(upgraded(values, path, schema, steps))
    except ArtifactError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path} is not {what}: {at + ': ' if at else ''}{why_impossible(first['msg'])}.") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path} is not {what}: {str(error).partition(chr(10))[0]}.") from None
