"""An application as Celery's users have it: FastAPI, tasks with retries, a chord, and a schedule.

Nothing here is about Holdfast. Its broker is Redis or Holdfast, by CELERY_URL alone:

    CELERY_URL=redis://127.0.0.1:6379/0            uvicorn orders:api
    CELERY_URL=holdfast://:KEY@127.0.0.1:8080      uvicorn orders:api
    CELERY_URL=…                                   celery -A orders worker -E
    CELERY_URL=…                                   celery -A orders beat
    CELERY_URL=…                                   celery -A orders flower
"""

from __future__ import annotations

import os
import random

from celery import Celery, chord
from celery.result import AsyncResult
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

celery = Celery("orders", broker=os.environ["CELERY_URL"], backend=os.environ["CELERY_URL"])
celery.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    task_routes={"orders.invoice": {"queue": "documents"}},
    beat_schedule={"sweep": {"task": "orders.sweep", "schedule": 1.0, "options": {"expires": 30}}},
)


class Unreachable(Exception):
    """A service that is down now and then."""


def is_first_of(item: str) -> bool:
    """Leaves a trace, as the sweep does."""
    directory = os.environ.get("PRICE_TRACES")
    if directory is None:
        return False
    try:
        open(os.path.join(directory, item), "x").close()
    except FileExistsError:
        return False
    return True


@celery.task(name="orders.price", autoretry_for=(Unreachable,), retry_backoff=0.1, retry_backoff_max=1, max_retries=20)
def price(item: str, count: int) -> int:
    """In cents. The first call for each item fails, and some of the others."""
    if is_first_of(item) or random.random() < 0.2:
        raise Unreachable(item)
    return 100 * len(item) * count


@celery.task(name="orders.invoice")
def invoice(prices: list[int], order: str) -> dict[str, object]:
    """When all prices are there."""
    return {"order": order, "total": sum(prices)}


@celery.task(name="orders.sweep", ignore_result=True)
def sweep() -> None:
    """By the clock: leaves a trace, so that it can be seen to run."""
    trace = os.environ.get("SWEEP_TRACE")
    if trace:
        with open(trace, "a") as file:
            file.write("swept\n")


class Order(BaseModel):
    name: str
    items: dict[str, int]


api = FastAPI()


@api.post("/orders", status_code=202)
def place(order: Order) -> dict[str, str]:
    """Prices every item, and writes the invoice when all prices are there."""
    if not order.items:
        raise HTTPException(422, "an order has at least one item")
    result = chord(price.s(item, count) for item, count in order.items.items())(invoice.s(order.name))
    return {"invoice": result.id}


@api.get("/invoices/{id}")
def show(id: str) -> dict[str, object]:
    """The invoice, or how far it is."""
    result = AsyncResult(id, app=celery)
    if result.failed():
        raise HTTPException(500, "the invoice could not be written")
    return {"state": result.state, "invoice": result.result if result.successful() else None}
