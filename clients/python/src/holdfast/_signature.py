"""A handler's signature: how its arguments become a payload, and a payload its arguments.

Two forms. One parameter whose type is a model (a dataclass, a ``TypedDict``, a model of pydantic or msgspec), or one parameter that is
positional-only (``def make(payload: list[int], /)``), is the payload itself. Otherwise the payload is an object with a field for each
parameter. In both forms the first parameter may be the :class:`~holdfast.Context`, which is no part of the payload.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ._convert import Reader, bare, hints_of, is_model, reader
from ._schema import Builder, schema_of
from .context import Context
from .errors import ConfigurationError, PayloadError

_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature:
    """The parameters of one handler."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(handler).parameters.values())
        hints = _hints(handler)
        self.returns: Any = hints.get("return", Any)
        self.takes_context = bool(parameters) and _is_context(parameters[0], hints)
        own = parameters[1:] if self.takes_context else parameters
        self._is_whole = len(own) == 1 and (own[0].kind is own[0].POSITIONAL_ONLY or is_model(bare(hints.get(own[0].name))))
        for parameter in own:
            if parameter.kind not in _KEYWORD and not self._is_whole:
                raise ConfigurationError(
                    f"the handler {handler.__qualname__} has the parameter {str(parameter)!r}; a payload's fields have names, so "
                    "parameters must be such as `url: str`, without *, ** and /"
                )
        self._parameters = {parameter.name: parameter for parameter in own}
        self._hints = {name: hints.get(name, Any) for name in self._parameters}
        self._readers: dict[str, Reader] = {name: reader(hint) for name, hint in self._hints.items()}
        self._required = [name for name, one in self._parameters.items() if one.default is one.empty]
        self._bound = inspect.Signature(own)

    def payload_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The payload for a call of the handler with these arguments. Raises TypeError as the call would."""
        arguments = self._bound.bind(*args, **kwargs).arguments
        if not self._is_whole:
            return dict(arguments)
        return next(iter(arguments.values())) if arguments else None

    def arguments_of(self, payload: Any, *, closed: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for a payload. Raises PayloadError. ``closed``: also for a field that no parameter has."""
        if self._is_whole:
            (read,) = self._readers.values()
            return (read(payload, "payload"),), {}
        if not isinstance(payload, dict):
            if payload is None and not self._required:
                return (), {}
            raise PayloadError("payload", "must be an object with a field for each parameter of the handler")
        for name in self._required:
            if name not in payload:
                raise PayloadError(f"payload.{name}", "is missing")
        for name in payload if closed else ():
            if name not in self._parameters:
                raise PayloadError(f"payload.{name}", "is no parameter of the handler")
        return (), {name: read(payload[name], f"payload.{name}") for name, read in self._readers.items() if name in payload}

    def payload_schema(self) -> dict[str, Any] | None:
        if self._is_whole:
            (hint,) = self._hints.values()
            return schema_of(hint)
        builder = Builder()
        return builder.document(builder.fields(self._hints, self._required, closed=True))

    def result_schema(self) -> dict[str, Any] | None:
        """None for a handler that does not say what it returns, or returns nothing."""
        return None if bare(self.returns) in (Any, None, type(None)) else schema_of(self.returns)


def _hints(handler: Callable[..., Any]) -> dict[str, Any]:
    try:
        return hints_of(handler)
    except NameError as error:
        raise ConfigurationError(
            f"a type of the handler {handler.__qualname__} cannot be found: {error}; define it at the top of its module, and not "
            "under TYPE_CHECKING"
        ) from error


def _is_context(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    hint = hints.get(parameter.name)
    return hint is Context or (hint is None and parameter.name == "ctx")
