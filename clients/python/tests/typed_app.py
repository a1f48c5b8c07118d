"""Checked by mypy, not run: what an application that uses the installed package may rely on. A wrong use must be an error, which
`--warn-unused-ignores`, a part of `--strict`, asserts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast import App, AsyncClient, Client, Context, Job, JobRecord, Retry

if TYPE_CHECKING:
    from typing_extensions import assert_type


@dataclass
class Image:
    url: str
    width: int = 120


app = App(queue="media")


@app.job("thumbnail.make")
def make(image: Image, quality: int = 80) -> dict[str, int]:
    return {image.url: quality}


@app.job("thumbnail.slow", timeout_seconds=60)
async def slow(context: Context, url: str) -> str:
    if context.attempt > 2:
        raise Retry(after=5)
    return url


def producer() -> None:
    job = make.delay(Image("a"), quality=90)
    assert_type(job, Job)
    assert_type(job.wait(timeout=5), JobRecord)
    assert_type(job.result(), Any)
    make.options(priority="high", delay_seconds=3).delay(Image("a"))
    make.options(priority="urgent")  # type: ignore[arg-type]
    make.delay("a")  # type: ignore[arg-type]
    make.delay(Image("a"), size=3)  # type: ignore[call-arg]
    # The context is the worker's, and no argument.
    slow.delay("a")
    slow.delay(1)  # type: ignore[arg-type]


def client(of: Client) -> None:
    assert_type(of.enqueue("thumbnail.make", {"url": "a"}, unique_key="a"), Job)
    assert_type(of.job("J"), JobRecord)
    of.enqueue("thumbnail.make", {}, max_attempts="3")  # type: ignore[arg-type]
    of.enqueue("thumbnail.make", {}, no_option=1)  # type: ignore[call-arg]


async def async_client(of: AsyncClient) -> str:
    return (await of.enqueue("thumbnail.make", {})).id
