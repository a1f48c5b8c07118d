"""The example, without a server, and with the one that HOLDFAST_URL and HOLDFAST_API_KEY name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import django
import pytest
from django.test import Client

from holdfast import Worker


@pytest.fixture(scope="module", autouse=True)
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["SHOP_DATABASE"] = str(tmp_path_factory.mktemp("shop") / "shop.sqlite3")
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", run_syncdb=True, verbosity=0)
    yield
    connection.close()


def test_without_a_server() -> None:
    from shop.jobs import app
    from shop.models import Order

    with app.testing() as box:
        order = Client().post("/orders", {"email": "ada@example.org"}).json()["order"]
        with pytest.raises(ValueError):
            Client().post("/orders", {"email": "grace@example.org", "fail": "1"})
        assert [job.payload for job in box.jobs] == [{"order": order}]
        box.run()
        assert Order.objects.get(pk=order).confirmed


def test_with_a_server() -> None:
    from shop.jobs import app
    from shop.models import Order

    app.declare()
    with Worker(app):
        order = Client().post("/orders", {"email": "ada@example.org"}).json()["order"]
        until = time.monotonic() + 60
        while not Order.objects.get(pk=order).confirmed:
            assert time.monotonic() < until, "the order is not confirmed"
            time.sleep(0.05)
