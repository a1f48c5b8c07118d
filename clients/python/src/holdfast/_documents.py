"""The calls for results (documents with a time to live) and channels (messages to all who listen now)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _json
from ._calls import WAIT_MARGIN_SECONDS, Call, _nothing, _part

#: Ids of one read, documents of one write, messages of one call, at most.
MAX_ITEMS = 1_000

#: Longest wait of one call, in seconds.
MAX_WAIT_SECONDS = 30.0

#: Longest time to live of a document, in seconds: a year.
MAX_TTL_SECONDS = 31_536_000


@dataclass(frozen=True)
class Document:
    """A stored document. The version grows with every write."""

    id: str
    body: str
    version: int


@dataclass(frozen=True)
class News:
    """What was said on a channel after a position."""

    messages: tuple[str, ...]
    last: int
    #: Some messages have expired before they were read.
    missed: bool


def write(id: str, body: str, ttl: int, *, finished: bool = False, unless_finished: bool = False) -> Call[None]:
    """Stores a document. With ``unless_finished`` one that was stored as ``finished`` stays as it is."""
    item: dict[str, Any] = {"id": id, "body": body, "ttl_seconds": int(ttl)}
    if finished:
        item["finished"] = True
    if unless_finished:
        item["unless_finished"] = True
    return Call("POST", "/v1/results/write", _nothing, _json.encode({"results": [item]}))


def read(ids: Sequence[str], known: Mapping[str, int] | None = None, wait: float = 0.0) -> Call[tuple[list[Document], list[str]]]:
    """The documents whose version is not the known one, and the ids that did not fit into the answer. With ``wait`` it waits for one."""
    fields: dict[str, Any] = {"ids": list(ids)}
    if known:
        fields["known"] = dict(known)
    if wait:
        fields["wait_seconds"] = round(wait, 3)

    def of(body: Any) -> tuple[list[Document], list[str]]:
        found = [Document(str(one["id"]), str(one["body"]), int(one["version"])) for one in body["results"]]
        return found, [str(id) for id in body.get("left_out", ())]

    return Call("POST", "/v1/results/read", of, _json.encode(fields), timeout=wait + WAIT_MARGIN_SECONDS)


def delete(ids: Sequence[str]) -> Call[None]:
    return Call("POST", "/v1/results/delete", _nothing, _json.encode({"ids": list(ids)}))


def add_parts(id: str, parts: Sequence[str], ttl: int) -> Call[int]:
    """Adds to a set. Returns how many it has then."""
    body = _json.encode({"parts": list(parts), "ttl_seconds": int(ttl)})
    return Call("POST", f"/v1/results/{_part(id)}/parts", lambda answer: int(answer["count"]), body)


def parts(id: str, after: str | None = None) -> Call[tuple[list[str], str | None]]:
    """A page of a set, sorted, and what to give as ``after`` for the next one."""
    query = "" if after is None else f"?after={_part(after)}"
    return Call(
        "GET",
        f"/v1/results/{_part(id)}/parts{query}",
        lambda answer: ([str(one) for one in answer["parts"]], answer.get("next")),
    )


def delete_parts(id: str, parts: Sequence[str]) -> Call[None]:
    return Call("POST", f"/v1/results/{_part(id)}/parts/delete", _nothing, _json.encode({"parts": list(parts)}))


def say(channel: str, messages: Sequence[str], ttl: int) -> Call[None]:
    """To all who listen. A repeat says it again."""
    body = _json.encode({"messages": list(messages), "ttl_seconds": int(ttl)})
    return Call("POST", f"/v1/channels/{_part(channel)}", _nothing, body, repeatable=False)


def position(channel: str) -> Call[int]:
    """Where a reader begins who wants what is said from now on."""
    return Call("GET", f"/v1/channels/{_part(channel)}", lambda answer: int(answer["last"]))


def listen(channels: Mapping[str, int], wait: float) -> Call[dict[str, News]]:
    """What was said after the positions; only channels with news."""
    body = _json.encode({"channels": dict(channels), "wait_seconds": wait})

    def of(answer: Any) -> dict[str, News]:
        return {
            str(name): News(tuple(str(one["body"]) for one in news["messages"]), int(news["last"]), bool(news.get("missed", False)))
            for name, news in answer["channels"].items()
        }

    return Call("POST", "/v1/channels/read", of, body, timeout=wait + WAIT_MARGIN_SECONDS)
