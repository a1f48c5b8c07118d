"""A FastAPI application that enqueues jobs, and the handler that runs them.

uvicorn thumbnails:api                     # the application
python -m holdfast worker thumbnails:app   # the worker
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

import holdfast
from holdfast import App, Context

app = App(queue="thumbnails")


class Thumbnail(BaseModel):
    """The payload of the job, and the body of the request."""

    url: str
    width: int = Field(default=120, gt=0, le=4096)


@app.job("thumbnail.make", timeout_seconds=60, max_attempts=5)
async def make(ctx: Context, thumbnail: Thumbnail) -> dict[str, int]:
    """Makes a thumbnail of an image."""
    ctx.progress({"percent": 50})
    return {"width": thumbnail.width, "height": thumbnail.width * 3 // 4}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await app.async_client.close()


api = FastAPI(lifespan=lifespan)


@api.post("/thumbnails", status_code=202)
async def create(thumbnail: Thumbnail) -> dict[str, str]:
    """The job is committed when this answers."""
    job = await make.adelay(thumbnail)
    return {"job": job.id}


@api.get("/thumbnails/{job}")
async def show(job: str, wait: float = 0.0) -> dict[str, Any]:
    """Waits for the result for up to ``wait`` seconds."""
    try:
        record = await app.async_client.wait(job, min(wait, 30.0))
    except holdfast.WaitTimeout:
        record = await app.async_client.job(job)
    except holdfast.NotFound:
        raise HTTPException(404) from None
    return {"state": record.state, "result": record.result, "progress": record.progress}
