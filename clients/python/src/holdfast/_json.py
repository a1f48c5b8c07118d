"""JSON, as the API takes it: compact, without NaN, and with the types that handlers use."""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from collections.abc import Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID


def encode(value: Any) -> str:
    """One line of JSON. Raises TypeError or ValueError for what JSON cannot say."""
    return _ENCODER.encode(value)


def decode(text: str | bytes) -> Any:
    """Raises ValueError. A whole number with more digits than Python reads (4,300) is a Decimal, and no error."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4_300 else Decimal(digits)


def plain(value: Any) -> Any:
    """What JSON has no form for, as something it has: the inverse of what :mod:`holdfast._convert` reads."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return _library_model(value)


def _library_model(value: Any) -> Any:
    """A model of pydantic or msgspec. Neither is imported here: a value of theirs proves that it is loaded."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    raise TypeError(f"a value of the type {type(value).__qualname__} has no form in JSON")


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=plain)
