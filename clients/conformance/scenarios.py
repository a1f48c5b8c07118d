"""What is expected of every client. Each scenario is a sentence that must be true, and is judged from outside."""

from __future__ import annotations

import signal
import time
from typing import Any

from harness import LOST_AFTER_SECONDS, Failure, eventually
from proxy import FINISH, HEARTBEAT, PULL, REGISTER, Call, Proxy
from world import World, equal, expect, scenario

JOBS, BATCH = r"^/v1/jobs$", r"^/v1/jobs/batch$"


def has_jobs(call: Call) -> bool:
    """A reply of a pull that gives jobs."""
    return bool(call.reply and call.reply.get("jobs"))


def delivered(calls: list[Call]) -> list[Call]:
    """The calls whose reply reached the client."""
    return [call for call in calls if call.status == 200]


# --- enqueue --------------------------------------------------------------------------------------------------------


@scenario("an enqueued job is run, and wait returns its result")
def round_trip(world: World) -> None:
    client = world.adapter()
    client.ask("declare", kinds=[{"name": world.kind, "queue": world.queue, "timeout_seconds": 30, "retry": {"max_attempts": 2}}])
    shown = world.admin.ok("GET", f"/v1/kinds/{world.kind}")
    equal((shown["queue"], shown["timeout_seconds"], shown["retry"]["max_attempts"]), (world.queue, 30, 2), "the declared kind")
    world.start(client)
    value = {"text": "grüße \u2028 \U0001f680 \"quoted\" \\", "list": [1, -2.5, True, None, {}], "nested": {"empty": []}}
    job = client.ask("enqueue", kind=world.kind, payload=world.payload(value=value))
    equal(job["duplicate"], False, "duplicate")
    found = client.ask("wait", job=job["id"], timeout_seconds=30)
    equal((found["state"], found["result"], found["error"]), ("completed", value, None), "the outcome")
    equal(world.runs(), {job["id"]: 1}, "executions")


@scenario("a worker names its client, version and language when it registers")
def names_itself(world: World) -> None:
    world.declare()
    client = world.adapter()
    hello = client.ask("hello")
    worker = world.start(client, worker="visible", concurrency=3)
    listed = next(one for one in world.admin.ok("GET", "/v1/workers")["workers"] if one["id"] == worker)
    wanted = {"name": hello["client"], "version": hello["version"], "language": hello["language"]}
    equal(listed["client"], wanted, "the client in the list of workers")
    expect("visible" in listed["name"], f"the worker's name: {listed}")


@scenario("every option of a job reaches the server")
def options(world: World) -> None:
    world.declare()
    client = world.adapter()
    then = {"kind": world.kind, "payload": {"do": "echo"}}
    job = client.ask("enqueue", kind=world.kind, payload={}, options={
        "delay_seconds": 3600, "priority": "high", "max_attempts": 7, "timeout_seconds": 12.5, "unique_key": "u", "limit_key": "l", "tags": ["vip", "eu west"],
        "then": then,
    })["id"]
    found = world.job(job)
    wanted = ("scheduled", "high", 7, 12.5, "u", "l", ["vip", "eu west"], world.kind)
    names = ("state", "priority", "max_attempts", "timeout_seconds", "unique_key", "limit_key", "tags")
    equal((*(found[name] for name in names), found["then"]["kind"]), wanted, "the job")
    moment = "2031-02-03T04:05:06Z"
    job = client.ask("enqueue", kind=world.kind, payload={}, options={"run_at": moment})["id"]
    equal(world.job(job)["run_at"].replace(".000", ""), moment, "run_at")
    job = client.ask("enqueue", kind=world.kind, payload={}, options={"expires_at": moment})["id"]
    equal(world.job(job)["expires_at"].replace(".000", ""), moment, "expires_at")


@scenario("enqueue_many accepts more jobs than one request may have, and answers their ids in order")
def enqueue_many(world: World) -> None:
    world.declare()
    client = world.adapter()
    jobs = [{"kind": world.kind, "payload": {"n": number}} for number in range(10_500)]
    ids = client.ask("enqueue_many", jobs=jobs)["ids"]
    equal((len(ids), len(set(ids))), (len(jobs), len(jobs)), "ids, and distinct ones")
    for place in (0, 1, 9_999, 10_000, len(jobs) - 1):
        equal(world.job(ids[place])["payload"], {"n": place}, f"the payload of job {place}")
    equal(len(world.jobs()), len(jobs), "jobs in the queue")


@scenario("an enqueue whose reply is lost is repeated under one Idempotency-Key, and makes one job")
def lost_reply_of_enqueue(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.lose("POST", JOBS)
    job = client.ask("enqueue", kind=world.kind, payload={})["id"]
    keys = [call.headers.get("idempotency-key") for call in proxy.of(JOBS)]
    expect(len(keys) == 2 and keys[0] and len(set(keys)) == 1, f"two calls under one key: {keys}")
    equal(len(world.jobs()), 1, "jobs in the queue")
    equal(world.job(job)["id"], job, "the job")


@scenario("an enqueue_many whose reply is lost is repeated under one Idempotency-Key, and makes each job once")
def lost_reply_of_enqueue_many(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.lose("POST", BATCH)
    ids = client.ask("enqueue_many", jobs=[{"kind": world.kind, "payload": {"n": number}} for number in range(50)])["ids"]
    keys = [call.headers.get("idempotency-key") for call in proxy.of(BATCH)]
    expect(len(keys) == 2 and keys[0] and len(set(keys)) == 1, f"two calls under one key: {keys}")
    equal(len(world.jobs()), 50, "jobs in the queue")
    equal(world.job(ids[49])["payload"], {"n": 49}, "the last job's payload")


@scenario("two enqueues without a key are two jobs; two with the same key are one, and the second is a duplicate")
def own_key(world: World) -> None:
    world.declare()
    client = world.adapter()
    command: dict[str, Any] = {"kind": world.kind, "payload": {}}
    equal(len({client.ask("enqueue", **command)["id"] for _ in range(2)}), 2, "jobs without a key")
    keyed = [client.ask("enqueue", **command, options={"idempotency_key": "order-7"}) for _ in range(2)]
    equal(keyed[0]["id"], keyed[1]["id"], "the id")
    equal([job["duplicate"] for job in keyed], [False, True], "duplicate")
    equal(len(world.jobs()), 3, "jobs in the queue")


@scenario("an unknown kind is an error that names it, and is not tried again")
def unknown_kind(world: World) -> None:
    proxy = world.proxy()
    client = world.adapter(proxy)
    error = client.error_of("enqueue", kind="no.such.kind", payload={})
    equal((error.type, error.error.get("status")), ("unknown-kind", 422), "the error")
    expect("no.such.kind" in str(error.error), f"the kind is not named: {error}")
    equal(len(proxy.of(JOBS)), 1, "calls")


@scenario("a payload that its schema refuses is an error that names the path")
def refused_payload(world: World) -> None:
    schema = {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}}
    world.declare(payload_schema=schema)
    client = world.adapter()
    error = client.error_of("enqueue", kind=world.kind, payload={"url": 7})
    equal(error.type, "invalid-payload", "the error's type")
    expect(any("url" in field for field in error.fields), f"the path is not named: {error}")
    expect("url" in str(error.error.get("message")), f"the message does not name the path: {error}")


@scenario("a key without the scope is an error that names the scope, and a wrong key is an error that does not show it")
def wrong_key(world: World) -> None:
    world.declare()
    client = world.adapter(key=world.key("read"))
    error = client.error_of("enqueue", kind=world.kind, payload={})
    equal(error.type, "missing-scope", "the error's type")
    expect("produce" in str(error.error), f"the scope is not named: {error}")
    secret = "hf_wrong_secret_0123456789abcdef"
    client.ask("open", url=world.server.url, key=secret)
    error = client.error_of("enqueue", kind=world.kind, payload={})
    equal((error.type, error.error.get("status")), ("unauthenticated", 401), "the error")
    expect(secret not in client.everything_said(), "the key was shown")


@scenario("an enqueue that is answered 503 waits as long as Retry-After says and is repeated")
def retry_after_of_enqueue(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.refuse("POST", JOBS, retry_after=2)
    client.ask("enqueue", kind=world.kind, payload={})
    first, second = proxy.of(JOBS)
    expect(first.answered_at and second.at - first.answered_at >= 1.95, "the second call came before Retry-After had passed")
    equal(len(world.jobs()), 1, "jobs in the queue")


@scenario("a server that cannot be reached is an error within the client's own time limit")
def unreachable(world: World) -> None:
    client = world.adapter("http://127.0.0.1:9")
    error = client.error_of("enqueue", timeout=120, kind="any", payload={})
    equal(error.type, "unavailable", "the error's type")


@scenario("a gateway's HTML page is no crash: enqueue repeats it and goes on")
def gateway_page(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.refuse("POST", JOBS, status=502, html=True)
    client.ask("enqueue", kind=world.kind, payload={})
    equal(len(world.jobs()), 1, "jobs in the queue")


@scenario("a connection that was closed while it was idle is replaced without an error")
def idle_connection(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.closes_idle = True
    for number in range(1, 6):
        client.ask("enqueue", kind=world.kind, payload={})
        equal(len(world.jobs()), number, "jobs in the queue")


@scenario("wait ends with an error when its time is over, and with the answer of a job that failed for good")
def waiting(world: World) -> None:
    world.declare(retry={"max_attempts": 1})
    client = world.adapter()
    job = world.enqueue(world.payload("discard", message="it is broken"))
    equal(client.error_of("wait", job=job, timeout_seconds=0.5).type, "wait-timeout", "the error's type")
    pending = client.send("wait", job=job, timeout_seconds=60)
    world.start(client)
    found = pending.answer()
    equal((found["state"], found["result"]), ("discarded", None), "the outcome")
    expect("it is broken" in found["error"], f"the reason is missing: {found}")


@scenario("a wait whose reply is lost, and one that is answered 503, go on")
def interrupted_wait(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    job = world.enqueue(world.payload(value=1))
    proxy.lose("GET", r"^/v1/jobs/")
    proxy.refuse("GET", r"^/v1/jobs/", retry_after=1)
    pending = client.send("wait", job=job, timeout_seconds=60)
    world.start(client)
    found = pending.answer()
    equal((found["state"], found["result"]), ("completed", 1), "the outcome")


@scenario("the cancellation of a waiting job ends it")
def cancel_waiting(world: World) -> None:
    world.declare()
    client = world.adapter()
    job = client.ask("enqueue", kind=world.kind, payload={}, options={"delay_seconds": 3600})["id"]
    client.ask("cancel", job=job)
    equal(client.ask("wait", job=job, timeout_seconds=30)["state"], "cancelled", "the job's state")


# --- handlers -------------------------------------------------------------------------------------------------------


@scenario("the handler knows its job, attempt, deadline and the result of the job before it")
def context(world: World) -> None:
    world.declare(timeout_seconds=33)
    client = world.adapter()
    world.start(client)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"kind": world.kind, "payload": {"do": "echo", "value": {"first": 1}}, "then": {"kind": world.kind, "payload": {"do": "context"}}}
    first = world.admin.ok("POST", "/v1/jobs", body, {"traceparent": trace})["id"]
    child = world.reaches(first, "completed")["child"]
    seen = world.reaches(child, "completed")["result"]
    equal(seen["job"], child, "the job's id")
    names = ("kind", "queue", "attempt", "max_attempts", "previous_result", "batch")
    equal({name: seen[name] for name in names},
          {"kind": world.kind, "queue": world.queue, "attempt": 1, "max_attempts": 3, "previous_result": {"first": 1}, "batch": None},
          "the context")
    expect(0 < seen["deadline_seconds"] <= 33, f"the deadline: {seen}")
    batch = world.admin.ok("POST", "/v1/batches", {"jobs": [{"kind": world.kind, "payload": {"do": "context"}}]})
    seen = world.reaches(batch["ids"][0], "completed")["result"]
    equal(seen["batch"], batch["id"], "the batch")
    traced = world.admin.ok("POST", "/v1/jobs", {"kind": world.kind, "payload": {"do": "context"}}, {"traceparent": trace})["id"]
    found = world.reaches(traced, "completed")["result"]["traceparent"]
    expect(found and found.split("-")[1] == trace.split("-")[1], f"the trace: {found}")


@scenario("a handler that raises is tried again, its error is stored, and then it succeeds")
def failing(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client)
    found = world.reaches(world.enqueue(world.payload("fail", times=2, message="no such file")), "completed")
    equal((found["attempt"], found["result"]), (3, "recovered"), "attempts and result")
    equal(len(found["errors"]), 2, "errors")
    expect(all("no such file" in error["message"] for error in found["errors"]), f"the reason is not stored: {found['errors']}")
    equal((world.count("start"), world.count("end")), (3, 1), "executions")


@scenario("a job whose attempts are spent becomes a dead letter with every reason")
def spent(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client)
    found = world.reaches(world.enqueue(world.payload("fail", times=99, message="still no such file")), "discarded")
    equal((found["attempt"], len(found["errors"]), world.count("start")), (3, 3, 3), "attempts, errors and executions")


@scenario("Discard makes a dead letter at the first attempt")
def discard(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client)
    found = world.reaches(world.enqueue(world.payload("discard", message="gone for good")), "discarded")
    equal((found["attempt"], len(found["errors"]), world.count("start")), (1, 1, 1), "attempts, errors and executions")
    expect("gone for good" in found["errors"][0]["message"], f"the reason is not stored: {found['errors']}")


@scenario("Snooze runs the job again later and is no attempt")
def snooze(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client)
    found = world.reaches(world.enqueue(world.payload("snooze", seconds=0.2, times=2)), "completed")
    equal((found["attempt"], found["result"], found["errors"]), (1, "awake", []), "attempts, result and errors")
    equal(world.count("start"), 3, "executions")


@scenario("Retry(after) decides when the next attempt is")
def retry_after(world: World) -> None:
    # The policy of the kind would try again in an hour.
    world.declare(retry={"max_attempts": 3, "base_seconds": 3600, "cap_seconds": 3600, "jitter": False})
    client = world.adapter()
    world.start(client)
    found = world.reaches(world.enqueue(world.payload("retry_after", seconds=1)), "completed")
    equal((found["attempt"], found["result"]), (2, "retried"), "attempts and result")
    expect("later" in found["errors"][0]["message"], f"the reason is not stored: {found['errors']}")


@scenario("a handler that takes longer than its deadline is a failed attempt that says so")
def deadline(world: World) -> None:
    world.declare(timeout_seconds=1, retry={"max_attempts": 1})
    client = world.adapter()
    world.start(client)
    found = world.reaches(world.enqueue(world.payload("sleep", seconds=45)), "discarded", 40)
    text = found["errors"][0]["message"].lower()
    expect("deadline" in text or "timed out" in text or "timeout" in text, f"the error does not say why: {found['errors']}")
    equal((world.count("start"), found["crashes"]), (1, 0), "executions and crashes")


@scenario("the cancellation of a running job reaches its handler, and the job ends as cancelled")
def cancel_running(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client)
    job = world.enqueue(world.payload("wait_cancel", seconds=60))
    world.awaits("start")
    client.ask("cancel", job=job)
    found = world.reaches(job, "cancelled")
    equal((world.count("cancelled"), world.count("end"), found["crashes"]), (1, 0, 0), "cancellations, ends and crashes")


@scenario("progress is shown while the handler runs")
def progress(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client)
    job = world.enqueue(world.payload("progress", values=[{"percent": number} for number in range(10)], every_seconds=0.4))
    seen = eventually(lambda: world.job(job)["progress"], "progress is shown")
    expect("percent" in seen, f"the progress: {seen}")
    equal(world.reaches(job, "completed")["result"], {"percent": 9}, "the result")


@scenario("lines of ctx.log come to the job's log, in their order")
def log_lines(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client)
    marks = [f"line {place} of {world.kind}" for place in range(3)]
    job = world.enqueue(world.payload("log", lines=marks))
    equal(world.reaches(job, "completed")["result"], 3, "the result")
    equal([one["line"] for one in world.admin.ok("GET", f"/v1/jobs/{job}/log")["lines"]], marks, "the lines")


@scenario("a result that its schema refuses makes a dead letter, and the client logs why")
def refused_result(world: World) -> None:
    world.declare(result_schema={"type": "string"})
    client = world.adapter()
    world.start(client)
    found = world.reaches(world.enqueue(world.payload(value=7)), "discarded")
    equal((found["attempt"], world.count("start")), (1, 1), "attempts and executions")
    eventually(lambda: client.logged(found["id"]), "the client has logged the refusal")


@scenario("a result that is too large makes a dead letter, and the outcomes beside it are stored")
def large_result(world: World) -> None:
    world.declare()
    client = world.adapter()
    jobs = [world.enqueue(world.payload("big", bytes=300_000)), *(world.enqueue(world.payload(value=place)) for place in range(20))]
    world.start(client)
    world.reaches(jobs[0], "discarded")
    for place, job in enumerate(jobs[1:]):
        equal(world.reaches(job, "completed")["result"], place, "the result")
    equal(world.count("start"), len(jobs), "executions")


@scenario("no more handlers run at the same time than the concurrency allows")
def concurrency(world: World) -> None:
    world.declare()
    client = world.adapter()
    for _ in range(12):
        world.enqueue(world.payload(hold=True))
    world.start(client, concurrency=3)
    world.awaits("start", 3)
    equal(client.ask("worker.stats")["running"], 3, "running handlers")
    # A worker that would take more than it may had them pulled by now.
    time.sleep(0.5)
    equal(world.count("start"), 3, "handlers that have started")
    world.release()
    world.awaits("end", 12)
    eventually(world.is_empty, "every job has ended")
    equal(set(world.runs().values()), {1}, "executions of each job")


@scenario("handlers in threads run, fail and are cancelled as others do")
def threads(world: World) -> None:
    other_modes(world, "thread")


@scenario("handlers in processes run, fail and are cancelled as others do")
def processes(world: World) -> None:
    other_modes(world, "process")


def other_modes(world: World, mode: str) -> None:
    world.declare()
    client = world.adapter()
    cancelled = world.enqueue(world.payload("wait_cancel", seconds=60))
    world.start(client, mode=mode, concurrency=3)
    world.awaits("start")
    done = world.enqueue(world.payload(value="done"))
    failed = world.enqueue(world.payload("fail", times=1, message="once"))
    discarded = world.enqueue(world.payload("discard", message="never"))
    snoozed = world.enqueue(world.payload("progress", values=[1, 2]))
    equal(world.reaches(done, "completed")["result"], "done", "the result")
    equal(world.reaches(failed, "completed")["attempt"], 2, "attempts")
    expect("never" in world.reaches(discarded, "discarded")["errors"][0]["message"], "the reason is stored")
    equal(world.reaches(snoozed, "completed")["result"], 2, "the result")
    client.ask("cancel", job=cancelled)
    world.reaches(cancelled, "cancelled")


@scenario("a job of a kind that the worker does not have is run by one that has it")
def kind_of_another_worker(world: World) -> None:
    world.declare()
    other = world.declare(f"{world.kind}.other")
    client = world.adapter()
    world.start(client)
    job = world.enqueue(world.payload(value="mine"), kind=other)
    eventually(lambda: world.job(job)["state"] == "scheduled", "the job is put back")
    client.ask("worker.stop")
    world.start(client, worker="other", kinds=[other])
    found = world.reaches(job, "completed")
    equal((found["result"], found["attempt"], world.count("start")), ("mine", 1, 1), "result, attempts and executions")


# --- the protocol ---------------------------------------------------------------------------------------------------


@scenario("a worker has one pull at a time, and says with each which jobs it has")
def pulls_and_have(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    held = [world.enqueue(world.payload(hold=True)) for _ in range(3)]
    world.start(client, concurrency=8)
    world.awaits("start", 3)
    for batch in range(5):
        world.enqueue_batch([world.payload(value=batch)] * 10)
        world.awaits("end", (batch + 1) * 10)
    world.release()
    world.awaits("end", 53)
    eventually(world.is_empty, "every job has ended")
    client.ask("worker.stop")
    equal(set(world.runs().values()), {1}, "executions of each job")
    check_pulls(proxy)
    expect(any(set(held) <= set(call.body.get("have", [])) for call in proxy.of(PULL)), "no pull names the jobs that were held")


def check_pulls(proxy: Proxy) -> None:
    """Each pull begins after the one before it has ended, and names every job that was given and not yet reported."""
    for worker in {call.worker for call in proxy.of(PULL)}:
        pulls = [call for call in proxy.of(PULL) if call.worker == worker]
        finishes = [call for call in proxy.of(FINISH) if call.worker == worker]
        given: set[str] = set()
        for before, call in zip([None, *pulls], pulls):
            if before is not None and before.status:
                expect(before.answered_at and before.answered_at <= call.at, "two pulls of one worker at the same time")
            reported = {one["job"] for finish in finishes if finish.at <= call.at for one in finish.body["outcomes"]}
            missing = given - reported - set(call.body.get("have", []))
            equal(sorted(missing), [], "jobs that the pull does not name")
            if call.status == 200:
                given |= {job["id"] for job in call.reply["jobs"]}


@scenario("a pull whose reply is lost costs nothing: its jobs come with the next one, and run once")
def lost_reply_of_pull(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    lost = proxy.lose("POST", PULL, times=2, when=has_jobs)
    jobs = world.enqueue_batch([world.payload(value=place) for place in range(20)])
    world.start(client, concurrency=8)
    world.awaits("end", 20)
    eventually(world.is_empty, "every job has ended")
    equal(lost.used, 2, "lost replies")
    equal(world.runs(), {job: 1 for job in jobs}, "executions")
    expect(all(world.job(job)["crashes"] == 0 for job in jobs), "a job has crashed")


@scenario("a finish whose reply is lost is repeated until it is answered, and its jobs run once")
def lost_reply_of_finish(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.lose("POST", FINISH, times=2)
    jobs = world.enqueue_batch([world.payload(value=place) for place in range(20)])
    world.start(client, concurrency=8)
    for job in jobs:
        world.reaches(job, "completed")
    eventually(lambda: client.ask("worker.stats")["held"] == 0, "no outcome is held")
    equal(world.runs(), {job: 1 for job in jobs}, "executions")
    lost = [call for call in proxy.of(FINISH) if call.lost]
    again = {one["job"] for call in delivered(proxy.of(FINISH)) for one in call.body["outcomes"]}
    expect(all(one["job"] in again for call in lost for one in call.body["outcomes"]), "lost outcomes were not sent again")


@scenario("a registration and a heartbeat whose replies are lost are repeated")
def other_lost_replies(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.lose("POST", REGISTER)
    proxy.lose("POST", HEARTBEAT, times=2)
    world.start(client)
    equal(world.reaches(world.enqueue(world.payload(value=1)), "completed")["result"], 1, "the result")
    eventually(lambda: delivered(proxy.of(HEARTBEAT)), "a heartbeat is answered")


@scenario("outcomes are held while finish is refused, and sent when it is not, each once")
def held_outcomes(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    refusal = proxy.refuse("POST", FINISH, times=None)
    jobs = world.enqueue_batch([world.payload(value=place) for place in range(5)])
    world.start(client, concurrency=5)
    world.awaits("end", 5)
    eventually(lambda: client.ask("worker.stats")["held"] == 5, "five outcomes are held")
    equal({world.job(job)["state"] for job in jobs}, {"running"}, "what the server takes the jobs for")
    proxy.forget(refusal)
    for job in jobs:
        found = world.reaches(job, "completed")
        equal((found["attempt"], found["crashes"]), (1, 0), "attempts and crashes")
    equal(world.runs(), {job: 1 for job in jobs}, "executions")
    check_pulls(proxy)


@scenario("a worker that holds as many outcomes as it may pulls no more until they are sent")
def held_limit(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    refusal = proxy.refuse("POST", FINISH, times=None)
    jobs = world.enqueue_batch([world.payload(value=place) for place in range(600)])
    world.start(client, concurrency=10, held_limit=20)
    eventually(lambda: client.ask("worker.stats")["held"] >= 20, "20 outcomes are held")
    limit = client.ask("worker.stats")["held_limit"]
    equal(limit, 20, "the limit")
    # Whatever was on its way has come by then.
    tally = lambda: len([call for call in proxy.of(PULL) if has_jobs(call)])  # noqa: E731
    before = -1
    while before != tally():
        before = tally()
        time.sleep(1)
    expect(world.count("start") < 300, f"{world.count('start')} of 600 jobs were started although no outcome was accepted")
    proxy.forget(refusal)
    world.awaits("end", 600)
    eventually(world.is_empty, "every job has ended")
    equal(world.runs(), {job: 1 for job in jobs}, "executions")


@scenario("a finish and a pull that are answered 503 wait as long as Retry-After says")
def retry_after_of_worker(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    finish = proxy.refuse("POST", FINISH, retry_after=2)
    job = world.enqueue(world.payload(value=1))
    world.start(client)
    world.reaches(job, "completed")
    refused, repeated = proxy.of(FINISH)[:2]
    expect(refused.answered_at and repeated.at - refused.answered_at >= 1.95, "finish was repeated before Retry-After had passed")
    pull = proxy.refuse("POST", PULL, retry_after=2)
    # The pull that waits is answered with this job, and the next one is refused.
    world.enqueue(world.payload(value=2))
    eventually(lambda: pull.used == 1, "a pull is refused")
    eventually(lambda: proxy.of(PULL)[-1].status != 503, "the pull is repeated")
    pulls = proxy.of(PULL)
    place = next(place for place, call in enumerate(pulls) if call.status == 503)
    expect(pulls[place + 1].at - (pulls[place].answered_at or 0) >= 1.95, "pull was repeated before Retry-After had passed")
    equal(finish.used, 1, "refused finishes")


@scenario("a worker that is limited by 429 or gets a gateway's page holds its outcomes and goes on")
def limited(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.refuse("POST", FINISH, status=429, retry_after=1)
    proxy.refuse("POST", FINISH, status=502, html=True)
    proxy.refuse("POST", PULL, times=2, status=502, html=True)
    proxy.refuse("POST", HEARTBEAT, times=2, status=429, retry_after=1)
    job = world.enqueue(world.payload(value=1))
    world.start(client)
    equal(world.reaches(job, "completed")["result"], 1, "the result")
    equal(world.runs(), {job: 1}, "executions")


@scenario("a handler that blocks for longer than lost_after does not lose its lease")
def blocking(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    world.start(client)
    job = world.enqueue(world.payload("block", seconds=LOST_AFTER_SECONDS * 1.5))
    found = world.reaches(job, "completed")
    equal((found["result"], found["attempt"], found["crashes"]), ("blocked", 1, 0), "result, attempts and crashes")
    equal((world.count("start"), world.count("end")), (1, 1), "executions")


@scenario("an idle worker keeps its registration for longer than lost_after")
def idle(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    worker = world.start(client)
    silent = world.admin.ok("POST", "/v1/workers", {
        "name": "clock", "queues": [world.queue], "concurrency": 1, "client": {"name": "r", "version": "1", "language": "none"},
    })["id"]
    gone = lambda: not any(one["id"] == silent for one in world.admin.ok("GET", "/v1/workers")["workers"])  # noqa: E731
    eventually(gone, "a silent worker is lost")
    equal(client.ask("worker.stats")["worker_id"], worker, "the worker's id")
    equal(len(proxy.of(REGISTER)), 1, "registrations")
    world.reaches(world.enqueue(world.payload()), "completed")


@scenario("a worker that was lost registers again, its running handlers are cancelled, and their outcomes are not stored")
def lost_lease(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    job = world.enqueue(world.payload(hold=True, value="late"))
    first = world.start(client)
    world.awaits("start")
    proxy.is_down = True
    eventually(lambda: world.job(job)["crashes"] == 1, "the job is rescued")
    second = world.adapter()
    world.start(second, worker="second")
    world.awaits("start", 2)
    proxy.is_down = False
    eventually(lambda: client.ask("worker.stats")["worker_id"] != first, "the worker has registered again")
    world.awaits("cancelled")
    world.release()
    found = world.reaches(job, "completed")
    equal((found["attempt"], found["crashes"], found["result"]), (1, 1, "late"), "attempts, crashes and result")
    expect(client.logged("lease") or client.logged("worker-not-found") or client.logged("registered again"),
           f"the loss was not logged: {client.events[-10:]}")
    equal((world.count("start"), world.count("end")), (2, 1), "executions")
    second.ask("worker.stop", worker="second")
    again = world.enqueue(world.payload(value="again"))
    equal(world.reaches(again, "completed")["result"], "again", "the next job's result")


@scenario("an outcome of a lost lease is logged as lease_lost and dropped")
def lease_lost_outcome(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    refusal = proxy.refuse("POST", FINISH, times=None)
    job = world.enqueue(world.payload(value="first"))
    worker = world.start(client)
    world.awaits("end")
    eventually(lambda: client.ask("worker.stats")["held"] == 1, "the outcome is held")
    # The job goes back: for the server the worker has left. It cannot register again before another has the job.
    registering = proxy.refuse("POST", REGISTER, times=None)
    world.admin.ok("DELETE", f"/v1/workers/{worker}")
    equal(world.job(job)["state"], "available", "the job's state")
    thief = world.admin.ok("POST", "/v1/workers", {
        "name": "thief", "queues": [world.queue], "concurrency": 1, "client": {"name": "r", "version": "1", "language": "none"},
    })["id"]
    given = world.admin.ok("POST", f"/v1/workers/{thief}/pull", {"max": 1, "wait_seconds": 5})["jobs"]
    equal([one["id"] for one in given], [job], "the jobs of the other worker")
    proxy.forget(registering)
    proxy.forget(refusal)
    eventually(lambda: client.ask("worker.stats")["held"] == 0, "the outcome is dropped or stored")
    eventually(lambda: client.logged("lease_lost"), "the loss is logged")
    equal(world.job(job)["state"], "running", "the job's state")
    outcome = {"job": job, "fence": given[0]["fence"], "outcome": "completed", "result": "second"}
    world.admin.ok("POST", f"/v1/workers/{thief}/finish", {"outcomes": [outcome]})
    equal(world.job(job)["result"], "second", "the result")


@scenario("on register_again a worker takes a second id, finishes its jobs under the first, and deletes that")
def register_again(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    held = world.enqueue(world.payload(hold=True, value="old"))
    first = world.start(client)
    world.awaits("start")
    proxy.alter("POST", PULL, lambda body: {**body, "register_again": True}, when=lambda call: call.worker == first)
    # The pull that waits is answered with this job, and with the request.
    world.enqueue(world.payload(value="between"))
    world.awaits("end")
    second = eventually(lambda: (found := client.ask("worker.stats")["worker_id"]) != first and found, "a second id")
    new = world.enqueue(world.payload(value="new"))
    world.awaits("start", job=new)
    equal(world.job(held)["state"], "running", "the held job's state")
    expect(world.worker_is_listed(first), "the first id still has a job")
    world.release()
    for job, value in ((held, "old"), (new, "new")):
        found = world.reaches(job, "completed")
        equal((found["result"], found["attempt"], found["crashes"]), (value, 1, 0), "result, attempts and crashes")
    eventually(lambda: [call for call in proxy.of(rf"/{first}$", "DELETE") if call.status == 204], "the first id is deleted")
    expect(world.worker_is_listed(second), "the second id is still there")
    by = {one["job"]: call.worker for call in delivered(proxy.of(FINISH)) for one in call.body["outcomes"]}
    equal(by[held], first, "the id under which the held job was finished")
    equal(set(world.runs().values()), {1}, "executions of each job")


@scenario("a worker that is told to drain takes nothing more, finishes, and leaves")
def drain(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    job = world.enqueue(world.payload(hold=True, value=1))
    worker = world.start(client)
    world.awaits("start")
    ended = client.send("worker.wait")
    world.admin.ok("POST", f"/v1/workers/{worker}/drain")
    told = lambda: any(call.reply.get("drain") for call in delivered(proxy.of(r"/(pull|heartbeat)$")))  # noqa: E731
    eventually(told, "the worker is told to drain")
    time.sleep(0.2)
    # A pull that still waits may be given this job: the worker hands it back.
    waiting = world.enqueue(world.payload(value=2))
    expect(not ended.is_answered(), "the worker has left before its job ended")
    world.release()
    equal(ended.answer()["reason"], "drain", "the reason")
    equal(world.reaches(job, "completed")["result"], 1, "the result")
    found = world.job(waiting)
    equal((found["state"], found["crashes"], world.count("start", waiting)), ("available", 0, 0), "the job that came later")
    expect(not world.worker_is_listed(worker), "the worker is still listed")
    equal([call.status for call in proxy.of(rf"/{worker}$", "DELETE")], [204], "the farewell")


@scenario("a graceful stop waits for handlers, sends their outcomes, and leaves")
def graceful_stop(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    job = world.enqueue(world.payload(hold=True, value=1))
    worker = world.start(client)
    world.awaits("start")
    stopped = client.send("worker.stop", grace_seconds=50)
    time.sleep(0.5)
    # A pull that still waits may be given this job: the worker hands it back.
    later = world.enqueue(world.payload(value=2))
    time.sleep(0.2)
    expect(not stopped.is_answered(), "the worker has ended before its handler")
    world.release()
    stopped.answer()
    found = world.job(job)
    equal((found["state"], found["attempt"]), ("completed", 1), "the job")
    found = world.job(later)
    equal((found["state"], found["crashes"], world.count("start", later)), ("available", 0, 0), "the job that came later")
    expect(not world.worker_is_listed(worker), "the worker is still listed")


@scenario("a graceful stop hands back what does not end within its grace, without a crash")
def handed_back(world: World) -> None:
    world.declare()
    client = world.adapter()
    job = world.enqueue(world.payload(hold=True, value=1))
    world.start(client)
    world.awaits("start")
    client.ask("worker.stop", grace_seconds=0.3)
    found = world.job(job)
    equal((found["state"], found["attempt"], found["crashes"]), ("available", 0, 0), "state, attempts and crashes")
    second = world.adapter()
    world.start(second)
    world.awaits("start", 2)
    world.release()
    equal(world.reaches(job, "completed")["crashes"], 0, "crashes")


@scenario("SIGTERM ends a worker gracefully: it finishes its jobs, leaves, and exits with 0")
def sigterm(world: World) -> None:
    world.declare()
    client = world.adapter()
    job = world.enqueue(world.payload(hold=True, value=1))
    worker = world.start(client, signals=True, grace_seconds=50)
    world.awaits("start")
    client.signal(signal.SIGTERM)
    time.sleep(0.5)
    expect(client.is_running(), f"the process ended before its handler: {client.stderr()[-500:]}")
    world.release()
    equal(client.exit_code(), 0, "the exit code")
    equal(world.job(job)["state"], "completed", "the job's state")
    expect(not world.worker_is_listed(worker), "the worker is still listed")


@scenario("a second SIGTERM ends a worker at once")
def second_sigterm(world: World) -> None:
    world.declare()
    client = world.adapter()
    job = world.enqueue(world.payload(hold=True, value=1))
    world.start(client, signals=True, grace_seconds=300)
    world.awaits("start")
    client.signal(signal.SIGTERM)
    time.sleep(0.5)
    expect(client.is_running(), f"the process ended at the first signal: {client.stderr()[-500:]}")
    client.signal(signal.SIGTERM)
    client.exit_code()
    equal(world.count("end"), 0, "handlers that ended")
    second = world.adapter()
    world.start(second)
    world.release()
    equal(world.reaches(job, "completed")["result"], 1, "the result")


@scenario("a newer server's unknown fields are ignored")
def newer_server(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)

    def grow(body: Any) -> Any:
        if isinstance(body, dict):
            return {name: grow(value) if name not in ("payload", "result", "progress") else value for name, value in body.items()} | {
                "newer_field": {"deep": [1]}}
        return [grow(item) for item in body] if isinstance(body, list) else body

    proxy.alter("*", r"", grow)
    world.start(client)
    job = client.ask("enqueue", kind=world.kind, payload=world.payload("fail", times=1, message="once"))["id"]
    equal(client.ask("wait", job=job, timeout_seconds=30)["result"], "recovered", "the result")
    client.ask("worker.stop")


@scenario("an older server's missing fields have defaults")
def older_server(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    keep = {"jobs", "id", "kind", "queue", "payload", "attempt", "max_attempts", "fence", "deadline_seconds"}

    def shrink_pull(body: Any) -> Any:
        return {"jobs": [{name: value for name, value in job.items() if name in keep} for job in body["jobs"]]}

    proxy.alter("POST", PULL, shrink_pull)
    proxy.alter("POST", HEARTBEAT, lambda _: {})
    proxy.alter("POST", JOBS, lambda body: {"id": body["id"]})
    proxy.alter("POST", FINISH, lambda body: {"outcomes": [{name: one[name] for name in ("job", "status")} for one in body["outcomes"]]})
    world.start(client)
    job = client.ask("enqueue", kind=world.kind, payload={"do": "context"})["id"]
    found = client.ask("wait", job=job, timeout_seconds=30)
    equal((found["state"], found["result"]["attempt"], found["result"]["batch"]), ("completed", 1, None), "the outcome")
    eventually(lambda: proxy.of(HEARTBEAT), "a heartbeat")
    client.ask("worker.stop")


@scenario("a status of an outcome that the client does not know is logged, and the outcome is dropped")
def unknown_status(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    proxy.alter("POST", FINISH, lambda body: {"outcomes": [{**one, "status": "archived"} for one in body["outcomes"]]}, times=1)
    world.start(client)
    world.reaches(world.enqueue(world.payload(value=1)), "completed")
    eventually(lambda: client.ask("worker.stats")["held"] == 0, "nothing is held")
    world.reaches(world.enqueue(world.payload(value=2)), "completed")


@scenario("two workers of one process share a queue, and each job runs once")
def two_workers(world: World) -> None:
    world.declare()
    client = world.adapter()
    jobs = world.enqueue_batch([world.payload(value=place) for place in range(300)])
    for name in ("one", "two"):
        world.start(client, worker=name, concurrency=8)
    world.awaits("end", 300)
    eventually(world.is_empty, "every job has ended")
    equal(world.runs(), {job: 1 for job in jobs}, "executions")


@scenario("a batch of 1,000 small jobs runs, each once, in far fewer calls than jobs")
def many_small_jobs(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    jobs = world.enqueue_batch([world.payload(value=place) for place in range(1_000)])
    world.start(client, concurrency=100)
    world.awaits("end", 1_000)
    eventually(world.is_empty, "every job has ended")
    equal(world.runs(), {job: 1 for job in jobs}, "executions")
    expect(len(proxy.of(PULL)) + len(proxy.of(FINISH)) < 500, f"{len(proxy.of(PULL))} pulls and {len(proxy.of(FINISH))} finishes")
    check_pulls(proxy)


# --- bad input ------------------------------------------------------------------------------------------------------


@scenario("a worker of an unknown queue, or of the Rust fleet's, is an error that names the queue, and is not tried again")
def wrong_queue(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    error = client.error_of("worker.start", queues=["no-such-queue"], kinds=[world.kind], concurrency=1)
    equal(error.type, "unknown-queue", "the error's type")
    expect("no-such-queue" in str(error.error), f"the queue is not named: {error}")
    error = client.error_of("worker.start", worker="second", queues=["default"], kinds=[world.kind], concurrency=1)
    equal(error.type, "queue-of-another-fleet", "the error's type")
    equal(len(proxy.of(REGISTER)), 2, "registrations")


@scenario("a worker whose key lacks the scope work is an error that names the scope")
def worker_without_scope(world: World) -> None:
    world.declare()
    client = world.adapter(key=world.key("produce", "read"))
    error = client.error_of("worker.start", queues=[world.queue], kinds=[world.kind], concurrency=1)
    equal(error.type, "missing-scope", "the error's type")
    expect("work" in str(error.error), f"the scope is not named: {error}")


@scenario("a worker's key needs the scope work and nothing more")
def least_scope(world: World) -> None:
    world.declare()
    job = world.enqueue(world.payload(value=1))
    client = world.adapter(key=world.key("work"))
    world.start(client)
    world.reaches(job, "completed")
    client.ask("worker.stop")


@scenario("a worker whose key is bound to its queue and kinds works, and one of another queue is refused")
def bound_worker(world: World) -> None:
    world.declare()
    world.declare(f"{world.kind}.other", f"{world.queue}-other")
    client = world.adapter(key=world.key("work", queues=[world.queue], kinds=[world.kind]))
    error = client.error_of("worker.start", worker="other", queues=[f"{world.queue}-other"], kinds=[f"{world.kind}.other"], concurrency=1)
    equal(error.error.get("status"), 403, "the status")
    expect(f"{world.queue}-other" in str(error.error), f"the queue is not named: {error}")
    world.start(client)
    world.reaches(world.enqueue(world.payload(value=1)), "completed")


@scenario("the key never appears in what the client shows, logs or raises")
def secrets(world: World) -> None:
    world.declare()
    proxy = world.proxy()
    key = world.key("produce", "work", "read")
    client = world.adapter(proxy, key=key)
    world.start(client)
    proxy.refuse("POST", FINISH, status=500)
    proxy.refuse("POST", HEARTBEAT, status=502, html=True)
    world.reaches(world.enqueue(world.payload("fail", times=1, message="x")), "completed")
    client.error_of("enqueue", kind="no.such.kind", payload={})
    proxy.is_down = True
    client.error_of("enqueue", timeout=120, kind=world.kind, payload={})
    text = client.ask("describe")["text"]
    expect(text, "the description is empty")
    expect(key not in text + client.everything_said(), "the key was shown")


@scenario("credentials in the URL are refused or never shown")
def url_with_credentials(world: World) -> None:
    client = world.adapter()
    url = world.server.url.replace("://", "://ada:very-secret-password@")
    try:
        client.ask("open", url=url)
        client.ask("describe")
    except Exception as refused:  # noqa: BLE001 - either way is right
        expect(not isinstance(refused, Failure), str(refused))
    expect("very-secret-password" not in client.everything_said(), "the password was shown")
