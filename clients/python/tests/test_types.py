"""Payloads as types, and their schemas."""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Dict, List, Literal, NewType, Optional, TypedDict, Union
from uuid import UUID

import pytest
from holdfast import PayloadError, _json
from holdfast._convert import reader
from holdfast._schema import MAX_BYTES, schema_of


class Color(enum.Enum):
    RED = "red"


UserId = NewType("UserId", int)


class Options(TypedDict, total=False):
    width: int


@dataclass
class Node:
    name: str
    children: List[Node] = field(default_factory=list)


@dataclass
class Everything:
    node: Node
    options: Options
    color: Color = Color.RED
    maybe: Optional[int] = None
    at: datetime = datetime(2026, 1, 31, tzinfo=timezone.utc)


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (int, 3),
    (float, 2.5),
    (str, "ü"),
    (bool, True),
    (None, None),
    (Any, {"a": [1]}),
    (Optional[int], None),
    (Union[int, str], "x"),
    (Literal["a", 1], 1),
    (Color, Color.RED),
    (UserId, UserId(3)),
    (Annotated[int, "many"], 3),
    (List[int], [1, 2]),
    (Sequence[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (frozenset[str], frozenset({"a"})),
    (Dict[str, int], {"a": 1}),
    (Mapping[int, str], {1: "a"}),
    (datetime, datetime(2026, 1, 31, 12, 30, 0, 5, tzinfo=timezone.utc)),
    (date, date(2026, 1, 31)),
    (timedelta, timedelta(seconds=90.5)),
    (UUID, UUID(int=7)),
    (Decimal, Decimal("1.10")),
    (bytes, b"\x00\xff"),
    (Options, {"width": 3}),
    (Node, Node("a", [Node("b")])),
    (Everything, Everything(Node("a"), {"width": 1}, maybe=3)),
]


@pytest.mark.parametrize(("hint", "value"), ROUND_TRIPS, ids=lambda one: str(one)[:40])
def test_a_value_comes_back_as_its_type(hint: Any, value: Any) -> None:
    back = reader(hint)(_json.decode(_json.encode(value)), "payload")
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(("hint", "value"), ROUND_TRIPS, ids=lambda one: str(one)[:40])
def test_the_schema_accepts_what_is_written(hint: Any, value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schema_of(hint) or {}).validate(_json.decode(_json.encode(value)))


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, "3", "payload: must be a whole number, and is a text"),
        (int, True, "payload: must be a whole number, and is a boolean"),
        (float, None, "payload: must be a number, and is null"),
        (List[int], [1, "x"], "payload[1]: must be a whole number, and is a text"),
        (Node, {}, "payload.name: is missing"),
        (Node, {"name": "a", "children": [{"name": 3}]}, "payload.children[0].name: must be a text, and is a number"),
        (Options, {"width": "x"}, "payload.width: must be a whole number, and is a text"),
        (Optional[Node], {"name": 3}, "payload.name: must be a text, and is a number"),
        (Color, "blue", "payload: must be one of ['red']"),
        (Literal["a", 1], True, "payload: must be one of ['a', 1]"),
        (datetime, "yesterday", "payload: must be a time, such as 2026-01-31T12:00:00Z"),
        (bytes, "!", "payload: must be bytes in base64"),
        (tuple[int, str], [1], "payload: must be a list of 2"),
        (Dict[str, int], [], "payload: must be an object, and is a list"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_path(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(PayloadError) as caught:
        reader(hint)(value, "payload")
    assert str(caught.value) == message


def test_fields_that_a_dataclass_does_not_have_are_ignored() -> None:
    assert reader(Node)({"name": "a", "newer": 1}, "payload") == Node("a")


def test_a_type_that_contains_itself_has_a_schema() -> None:
    schema = schema_of(Node)
    assert schema is not None
    assert schema["$ref"] == "#/$defs/Node"
    assert schema["$defs"]["Node"]["properties"]["children"] == {"type": "array", "items": {"$ref": "#/$defs/Node"}}


def test_a_schema_that_no_server_takes_is_left_out() -> None:
    assert schema_of(Literal["x" * MAX_BYTES]) is None


def test_models_of_pydantic_are_read_and_described() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Inner(pydantic.BaseModel):
        size: int = pydantic.Field(gt=0)

    class Model(pydantic.BaseModel):
        inner: Inner

    assert reader(Model)({"inner": {"size": 3}}, "payload") == Model(inner=Inner(size=3))
    with pytest.raises(PayloadError, match=r"payload\.inner\.size: Input should be greater than 0"):
        reader(Model)({"inner": {"size": 0}}, "payload")
    schema = schema_of(List[Model])
    assert schema is not None and schema["$defs"]["Inner"]["properties"]["size"]["exclusiveMinimum"] == 0
    assert _json.encode(Model(inner=Inner(size=3))) == '{"inner":{"size":3}}'


def test_models_of_pydantic_are_written_as_they_are_read() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        file_name: str = pydantic.Field(alias="fileName")

    text = _json.encode(Model(fileName="a"))
    assert text == '{"fileName":"a"}' and reader(Model)(_json.decode(text), "payload") == Model(fileName="a")


def test_whole_numbers_that_python_does_not_read_are_no_end() -> None:
    digits = "9" * 5_000
    assert _json.decode(f'{{"a": {digits}, "b": 1}}') == {"a": Decimal(digits), "b": 1}
    with pytest.raises(PayloadError, match="must be a whole number"):
        reader(int)(_json.decode(digits), "payload")
    with pytest.raises(ValueError):
        _json.decode("{")


def test_models_of_msgspec_are_read_and_described() -> None:
    msgspec = pytest.importorskip("msgspec")
    Model = msgspec.defstruct("Model", [("size", int)])
    assert reader(Model)({"size": 3}, "payload") == Model(size=3)
    with pytest.raises(PayloadError, match=r"payload\.size: Expected `int`, got `str`"):
        reader(Model)({"size": "x"}, "payload")
    assert schema_of(Model)["properties"] == {"size": {"type": "integer"}}  # type: ignore[index]
    assert _json.encode(Model(size=3)) == '{"size":3}'


@pytest.mark.parametrize("value", [float("nan"), object(), {1j: 2}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _json.encode(value)


if sys.version_info >= (3, 11):
    from typing import NotRequired

    class Partly(TypedDict):
        name: str
        size: NotRequired[int]

    def test_a_typed_dict_says_which_fields_it_needs() -> None:
        assert reader(Partly)({"name": "a"}, "payload") == {"name": "a"}
        with pytest.raises(PayloadError, match=r"payload\.name: is missing"):
            reader(Partly)({}, "payload")
