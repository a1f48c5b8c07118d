"""Payloads as the types of their handlers.

:func:`reader` makes a function for a type once; it is called for every job. Types: JSON's own, ``Any``, ``Optional`` and unions,
``Literal``, enums, lists, tuples, sets, mappings, dataclasses, ``TypedDict``, ``Annotated``, ``NewType``, dates, times, ``timedelta``
(seconds), ``UUID``, ``Decimal`` and ``bytes`` (base64); models of pydantic and msgspec are read by their libraries.

Fields that a dataclass does not have are ignored: a producer may be newer than its worker. A value of the wrong type is a PayloadError
that names the path.
"""

from __future__ import annotations

import base64
import collections.abc
import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, Union
from uuid import UUID

from .errors import PayloadError
from .models import moment_of

#: ``read(value, path)`` returns the value as its type, or raises PayloadError.
Reader = Callable[[Any, str], Any]

SEQUENCES: Mapping[Any, Callable[[Any], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}
MAPPINGS = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})


def is_pydantic(hint: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(hint, type) and issubclass(hint, pydantic.BaseModel)


def is_msgspec(hint: Any) -> bool:
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def is_typed_dict(hint: Any) -> bool:
    return typing.is_typeddict(hint)


def is_model(hint: Any) -> bool:
    """A type whose fields are the payload's."""
    is_dataclass = isinstance(hint, type) and dataclasses.is_dataclass(hint)
    return is_dataclass or is_typed_dict(hint) or is_pydantic(hint) or is_msgspec(hint)


def bare(hint: Any) -> Any:
    """Without ``Annotated``, ``Required``, ``NotRequired``, ``Final`` and ``NewType``."""
    while True:
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__metadata__"):
            hint = hint.__origin__
        elif getattr(typing.get_origin(hint), "_name", None) in ("Required", "NotRequired", "ReadOnly", "Final"):
            hint = typing.get_args(hint)[0]
        else:
            return hint


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def hints_of(owner: Any) -> dict[str, Any]:
    """The types of the fields or parameters, resolved. Raises NameError where a name cannot be."""
    return typing.get_type_hints(owner, include_extras=True)


def reader(hint: Any) -> Reader:
    """How values of a type are read."""
    return _make(hint, {})


def _make(hint: Any, known: dict[Any, Reader]) -> Reader:
    hint = bare(hint)
    try:
        if hint in known:
            # A type that contains itself: its reader is looked up when it is called.
            return lambda value, path: known[hint](value, path)
    except TypeError:
        return _anything
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if is_union(hint):
        return _union([_make(arg, known) for arg in args])
    if origin is Literal:
        return _literal(args)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _called(hint, f"must be one of {[member.value for member in hint]}")
    if is_pydantic(hint):
        return _pydantic(hint)
    if is_msgspec(hint):
        return _msgspec(hint)
    if is_model(hint):
        known[hint] = _anything
        known[hint] = _typed_dict(hint, known) if is_typed_dict(hint) else _dataclass(hint, known)
        return known[hint]
    base = origin or hint
    if base is tuple:
        return _tuple(args, known)
    if base in SEQUENCES:
        return _sequence(SEQUENCES[base], _make(args[0], known) if args else _anything)
    if base in MAPPINGS:
        return _mapping(_key(args[0]) if args else _anything, _make(args[1], known) if args else _anything)
    return _anything


def _anything(value: Any, path: str) -> Any:
    return value


def _instance(kind: type, name: str) -> Reader:
    def read(value: Any, path: str) -> Any:
        if isinstance(value, kind):
            return value
        raise PayloadError(path, f"must be {name}, and is {_named(value)}")

    return read


def _integer(value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise PayloadError(path, f"must be a whole number, and is {_named(value)}")


def _number(value: Any, path: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise PayloadError(path, f"must be a number, and is {_named(value)}")


def _null(value: Any, path: str) -> None:
    if value is not None:
        raise PayloadError(path, f"must be null, and is {_named(value)}")


def _called(make: Callable[[Any], Any], rule: str) -> Reader:
    def read(value: Any, path: str) -> Any:
        try:
            return make(value)
        except (ValueError, TypeError, ArithmeticError, KeyError):
            raise PayloadError(path, rule) from None

    return read


def _text_as(make: Callable[[str], Any], rule: str) -> Reader:
    read = _called(make, rule)

    def checked(value: Any, path: str) -> Any:
        if not isinstance(value, str):
            raise PayloadError(path, rule)
        return read(value, path)

    return checked


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    return Decimal(str(value))


def _literal(values: tuple[Any, ...]) -> Reader:
    def read(value: Any, path: str) -> Any:
        for allowed in values:
            if value == allowed and type(value) is type(allowed):
                return allowed
        raise PayloadError(path, f"must be one of {list(values)}")

    return read


def _union(readers: list[Reader]) -> Reader:
    def read(value: Any, path: str) -> Any:
        faults = []
        for one in readers:
            try:
                return one(value, path)
            except PayloadError as fault:
                faults.append(fault)
        # A fault further inside is of the member that fits best.
        raise max(faults, key=lambda fault: len(fault.path))

    return read


def _sequence(collect: Callable[[Any], Any], item: Reader) -> Reader:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise PayloadError(path, f"must be a list, and is {_named(value)}")
        return collect([item(one, f"{path}[{index}]") for index, one in enumerate(value)])

    return read


def _tuple(args: tuple[Any, ...], known: dict[Any, Reader]) -> Reader:
    if not args or args[-1] is Ellipsis:
        return _sequence(tuple, _make(args[0], known) if args else _anything)
    readers = [_make(arg, known) for arg in args]

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list) or len(value) != len(readers):
            raise PayloadError(path, f"must be a list of {len(readers)}")
        return tuple(one(item, f"{path}[{index}]") for index, (one, item) in enumerate(zip(readers, value)))

    return read


def _key(hint: Any) -> Reader:
    """Keys of JSON objects are texts."""
    hint = bare(hint)
    return _called(int, "must be a whole number") if hint is int else _make(hint, {})


def _mapping(key: Reader, item: Reader) -> Reader:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise PayloadError(path, f"must be an object, and is {_named(value)}")
        return {key(name, f"{path}.{name}"): item(one, f"{path}.{name}") for name, one in value.items()}

    return read


def _fields(value: Any, path: str, readers: Mapping[str, Reader], required: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PayloadError(path, f"must be an object, and is {_named(value)}")
    for name in required:
        if name not in value:
            raise PayloadError(f"{path}.{name}", "is missing")
    return {name: read(value[name], f"{path}.{name}") for name, read in readers.items() if name in value}


def _dataclass(hint: Any, known: dict[Any, Reader]) -> Reader:
    hints = hints_of(hint)
    fields = [field for field in dataclasses.fields(hint) if field.init]
    readers = {field.name: _make(hints[field.name], known) for field in fields}
    required = frozenset(field.name for field in fields if not has_default(field))

    def read(value: Any, path: str) -> Any:
        if isinstance(value, hint):
            return value
        values = _fields(value, path, readers, required)
        try:
            return hint(**values)
        except (ValueError, TypeError) as error:
            raise PayloadError(path, str(error)) from error

    return read


def has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def required_keys(hint: Any) -> frozenset[str]:
    """Of a TypedDict. Its own ``__required_keys__`` misses ``NotRequired`` in annotations that are strings."""
    marks = {name: getattr(typing.get_origin(one), "_name", None) for name, one in hints_of(hint).items()}
    own = hint.__required_keys__
    return frozenset(name for name, mark in marks.items() if mark == "Required" or (name in own and mark != "NotRequired"))


def _typed_dict(hint: Any, known: dict[Any, Reader]) -> Reader:
    readers = {name: _make(one, known) for name, one in hints_of(hint).items()}
    required = required_keys(hint)

    def read(value: Any, path: str) -> Any:
        fields = _fields(value, path, readers, required)
        return {**value, **fields}

    return read


def _pydantic(hint: Any) -> Reader:
    import pydantic

    def read(value: Any, path: str) -> Any:
        try:
            return hint.model_validate(value)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise PayloadError(path + _path(first["loc"]), first["msg"]) from error

    return read


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)


def _msgspec(hint: Any) -> Reader:
    import msgspec

    def read(value: Any, path: str) -> Any:
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            reason, _, place = str(error).partition(" - at `$")
            raise PayloadError(path + place.rstrip("`"), reason) from error

    return read


def _named(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


_SIMPLE: Mapping[Any, Reader] = {
    Any: _anything,
    object: _anything,
    None: _null,
    type(None): _null,
    str: _instance(str, "a text"),
    bool: _instance(bool, "true or false"),
    int: _integer,
    float: _number,
    datetime: _text_as(moment_of, "must be a time, such as 2026-01-31T12:00:00Z"),
    date: _text_as(date.fromisoformat, "must be a date, such as 2026-01-31"),
    time: _text_as(time.fromisoformat, "must be a time of day, such as 12:00:00"),
    timedelta: _called(lambda value: timedelta(seconds=_number(value, "")), "must be a number of seconds"),
    UUID: _text_as(UUID, "must be a UUID"),
    Decimal: _called(_decimal, "must be a decimal number, as a text or a number"),
    bytes: _text_as(lambda text: base64.b64decode(text, validate=True), "must be bytes in base64"),
}
