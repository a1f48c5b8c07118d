"""The jobs of the shop: ``python -m holdfast worker shop.jobs:app`` runs them."""

from __future__ import annotations

import os

import django
from django.apps import apps
from django.db import close_old_connections, connection, transaction

import holdfast.sql
from holdfast import App, Discard

if not apps.ready:
    # In the worker: there Django has not been started.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    django.setup()

from .models import Order  # noqa: E402

app = App(queue="orders")


@app.job("order.confirm", max_attempts=10)
def confirm(order: int) -> str:
    """Confirms an order. It may run twice, and does the same then."""
    close_old_connections()
    try:
        if not Order.objects.filter(pk=order).update(confirmed=True):
            raise Discard(f"there is no order {order}")
        return "confirmed"
    finally:
        close_old_connections()


def confirm_on_commit(order: Order) -> None:
    """Enqueues the job if and only if the transaction commits."""
    if connection.vendor == "postgresql":
        # In the same transaction: no commit without the job, no job without the commit.
        holdfast.sql.enqueue(connection, confirm.name, {"order": order.pk})
    else:
        # After the commit, over HTTP. A process that dies in between leaves an order without a job.
        transaction.on_commit(lambda: confirm.delay(order.pk) and None)
