"""Every part of the package that makes a connection works over https with a private certificate authority."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from conftest import LOST_AFTER_SECONDS, Server, eventually
from holdfast import App, AsyncClient, Client, ConfigurationError, ConnectionFailed, Context, Worker
from tls import HOST, Authority, TlsServer

QUEUE = "tls"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(server: Server, authority: Authority) -> Iterator[TlsServer]:
    running = TlsServer(authority, server.port)
    yield running
    running.close()


def test_certificates_of_a_private_authority_are_checked(server: Server, secured: TlsServer, authority: Authority) -> None:
    url = f"https://{HOST}:{secured.port}"
    with Client(url, server.key, ca_file=authority.ca_file) as client:
        assert list(client.jobs(queue="events")) == []
    for wrong, ca_file in ((url, None), (f"https://127.0.0.1:{secured.port}", authority.ca_file)):
        with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED") as refused, Client(
            wrong, server.key, ca_file=ca_file, patience=0
        ) as client:
            list(client.jobs())
        assert server.key not in str(refused.value)
    with pytest.raises(ConfigurationError, match="the file of certificates cannot be read"):
        Client(url, server.key, ca_file="/no/such/file")


def test_the_environment_can_name_the_authority(
    server: Server, secured: TlsServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca_file)

    async def count() -> int:
        async with AsyncClient(f"https://{HOST}:{secured.port}", server.key) as client:
            return len([job async for job in client.jobs(queue="events")])

    assert asyncio.run(count()) == 0


def test_a_worker_and_its_heartbeats_work_over_tls(server: Server, secured: TlsServer, authority: Authority) -> None:
    app = App(f"https://{HOST}:{secured.port}", server.key, ca_file=authority.ca_file, queue=QUEUE)

    @app.job("tls.longer_than_a_lease")
    def longer_than_a_lease(ctx: Context) -> int:
        time.sleep(LOST_AFTER_SECONDS * 2)
        return ctx.attempt

    app.declare()
    with Worker(app):
        job = longer_than_a_lease.delay()
        assert job.result(timeout=60) == 1
        record = job.refresh()
    assert not record.errors


def test_celery_works_over_tls(server: Server, secured: TlsServer, authority: Authority) -> None:
    celery, kombu = pytest.importorskip("celery"), pytest.importorskip("kombu")
    url = f"holdfast+https://:{server.key}@{HOST}:{secured.port}"
    app = celery.Celery("tls", broker=url, backend=url, set_as_current=False)
    options = {"ca_file": authority.ca_file}
    app.conf.update(broker_transport_options=options, result_backend_transport_options=options, task_default_queue="celery-tls")
    sent = app.send_task("tls.nothing", retry=False)
    # The consumer's side: it pulls and settles under a lease whose heartbeats are a process of their own.
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = app.amqp.queues["celery-tls"](channel)
        message = eventually(queue.get, "the task")
        assert message.headers["id"] == sent.id
        time.sleep(LOST_AFTER_SECONDS * 1.5)
        message.ack()
    app.backend.store_result(sent.id, 42, "SUCCESS")
    assert sent.get(timeout=30) == 42
    with Client(server.url, server.key) as client:
        (record,) = eventually(lambda: [job for job in client.jobs(queue="celery-tls") if job.state == "completed"], "it is settled")
    assert record.attempt == 1
    app.close()
    untrusting = celery.Celery("tls", broker=url, set_as_current=False)
    with pytest.raises(kombu.exceptions.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        untrusting.send_task("tls.nothing", retry=False)
