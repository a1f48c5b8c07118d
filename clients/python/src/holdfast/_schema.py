"""The JSON Schema (2020-12) of a type: what :mod:`holdfast._convert` reads, in the server's words.

A schema refuses nothing that the reader accepts, except unknown fields of dataclasses: a misspelt field is found when a job is
enqueued, while a worker that is older than its producer still reads what it knows.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from . import _json
from ._convert import (
    MAPPINGS,
    SEQUENCES,
    bare,
    has_default,
    hints_of,
    is_model,
    is_msgspec,
    is_pydantic,
    is_typed_dict,
    is_union,
    required_keys,
)

#: Longest schema that a server takes, in bytes.
MAX_BYTES = 16 * 1024

Schema = dict[str, Any]

_SIMPLE: Mapping[Any, Schema] = {
    Any: {},
    object: {},
    None: {"type": "null"},
    type(None): {"type": "null"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    timedelta: {"type": "number", "description": "seconds"},
    UUID: {"type": "string", "format": "uuid"},
    Decimal: {"type": ["string", "number"]},
    bytes: {"type": "string", "contentEncoding": "base64"},
}


def schema_of(hint: Any) -> Schema | None:
    """The schema; None if there is nothing to say, or too much for a server."""
    builder = Builder()
    return builder.document(builder.of(hint))


class Builder:
    """One document with its ``$defs``."""

    def __init__(self) -> None:
        self._definitions: dict[str, Schema] = {}
        self._names: dict[Any, str] = {}

    def document(self, schema: Schema) -> Schema | None:
        """The schema with the definitions that it refers to."""
        reference = schema.get("$ref", "").removeprefix("#/$defs/")
        if reference and f'"#/$defs/{reference}"' not in _json.encode(self._definitions):
            schema = self._definitions.pop(reference)
        if self._definitions:
            schema = {**schema, "$defs": self._definitions}
        return schema if schema and len(_json.encode(schema)) <= MAX_BYTES else None

    def of(self, hint: Any) -> Schema:
        hint = bare(hint)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        try:
            if hint in _SIMPLE:
                return dict(_SIMPLE[hint])
        except TypeError:
            return {}
        if is_union(hint):
            return {"anyOf": [self.of(arg) for arg in args]}
        if origin is Literal:
            return {"enum": list(args)}
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return {"enum": [member.value for member in hint]}
        if is_model(hint):
            return self._model(hint)
        base = origin or hint
        if base is tuple:
            return self._tuple(args)
        if base in SEQUENCES:
            return {"type": "array", **({"items": self.of(args[0])} if args else {})}
        if base in MAPPINGS:
            return {"type": "object", **({"additionalProperties": self.of(args[1])} if args else {})}
        return {}

    def fields(self, hints: Mapping[str, Any], required: typing.Iterable[str], *, closed: bool) -> Schema:
        """An object with these fields."""
        schema: Schema = {"type": "object", "properties": {name: self.of(hint) for name, hint in hints.items()}}
        names = sorted(required)
        if names:
            schema["required"] = names
        if closed:
            schema["additionalProperties"] = False
        return schema

    def _tuple(self, args: tuple[Any, ...]) -> Schema:
        if not args:
            return {"type": "array"}
        if args[-1] is Ellipsis:
            return {"type": "array", "items": self.of(args[0])}
        return {"type": "array", "prefixItems": [self.of(arg) for arg in args], "minItems": len(args), "maxItems": len(args)}

    def _model(self, hint: Any) -> Schema:
        if is_pydantic(hint):
            return self._foreign(hint.model_json_schema(ref_template="#/$defs/{model}"))
        if is_msgspec(hint):
            import msgspec

            (schema,), definitions = msgspec.json.schema_components([hint], ref_template="#/$defs/{name}")
            return self._foreign({**schema, "$defs": definitions})
        name = self._names.get(hint)
        if name is None:
            name = hint.__name__ if hint.__name__ not in self._definitions else f"{hint.__name__}{len(self._definitions)}"
            self._names[hint] = name
            self._definitions[name] = {}
            self._definitions[name] = self._typed_dict(hint) if is_typed_dict(hint) else self._dataclass(hint)
        return {"$ref": f"#/$defs/{name}"}

    def _foreign(self, schema: Schema) -> Schema:
        self._definitions.update(schema.pop("$defs", {}))
        return schema

    def _dataclass(self, hint: Any) -> Schema:
        fields = [field for field in dataclasses.fields(hint) if field.init]
        hints = hints_of(hint)
        required = [field.name for field in fields if not has_default(field)]
        return self.fields({field.name: hints[field.name] for field in fields}, required, closed=True)

    def _typed_dict(self, hint: Any) -> Schema:
        return self.fields(hints_of(hint), required_keys(hint), closed=False)
