"""What the server promises to every client, asked over raw HTTP."""

from __future__ import annotations

from typing import Any

from harness import Answer, Api, LOST_AFTER_SECONDS, Failure, eventually
from world import World, equal, expect, pull, scenario

CLIENT = {"name": "raw", "version": "1", "language": "none"}


def registration(world: World, **fields: Any) -> dict[str, Any]:
    return {"name": "raw", "queues": [world.queue], "concurrency": 10, "client": CLIENT, **fields}


def register(world: World, api: Api | None = None, **fields: Any) -> str:
    return str((api or world.admin).ok("POST", "/v1/workers", registration(world, **fields))["id"])


def outcome(job: Any, verb: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"job": job["id"], "fence": job["fence"], "outcome": verb, **fields}


def finish(world: World, worker: str, *outcomes: Any, api: Api | None = None) -> list[str]:
    answer = (api or world.admin).ok("POST", f"/v1/workers/{worker}/finish", {"outcomes": list(outcomes)})
    return [one["status"] for one in answer["outcomes"]]


def is_refused(answer: Answer, status: int, problem: str, field: str | None = None) -> None:
    """A problem document of this type, which names the field and says what would be right."""
    equal((answer.status, answer.problem), (status, problem), "status and type of the problem")
    expect(answer.body.get("detail"), f"the problem says no detail: {answer}")
    if field is not None:
        expect(field in answer.fields or answer.body.get("field") == field, f"the problem does not name {field}: {answer}")


def server_scenario(sentence: str) -> Any:
    return scenario(sentence, needs_adapter=False)


@server_scenario("a worker of an unknown queue is refused, and the queue is named")
def unknown_queue(world: World) -> None:
    answer = world.admin.call("POST", "/v1/workers", registration(world, queues=["no-such-queue"]))
    is_refused(answer, 422, "unknown-queue", "queues[0]")
    expect("no-such-queue" in answer.body["detail"], f"the queue is not named: {answer}")


@server_scenario("a worker of a queue of the Rust fleet is refused, and the setting is named")
def queue_of_another_fleet(world: World) -> None:
    answer = world.admin.call("POST", "/v1/workers", registration(world, queues=["default"]))
    is_refused(answer, 409, "queue-of-another-fleet")
    expect("served_by" in answer.body["detail"], f"the setting is not named: {answer}")


@server_scenario("a key without the scope work cannot register, pull, finish, beat or leave")
def key_without_the_scope(world: World) -> None:
    world.declare()
    worker = register(world)
    weak = world.admin.with_key(world.key("produce", "read"))
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/v1/workers", registration(world)),
        ("POST", f"/v1/workers/{worker}/pull", {"max": 1}),
        ("POST", f"/v1/workers/{worker}/finish", {"outcomes": []}),
        ("POST", f"/v1/workers/{worker}/heartbeat", {}),
        ("DELETE", f"/v1/workers/{worker}", None),
    ]
    for method, path, body in calls:
        answer = weak.call(method, path, body)
        is_refused(answer, 403, "missing-scope")
        expect("work" in answer.body["detail"], f"the scope is not named: {answer}")
    expect(world.worker_is_listed(worker), "the worker is still there")


@server_scenario("a key that is bound to queues and kinds works and produces in no others")
def bound_key(world: World) -> None:
    world.declare()
    other_queue, other_kind = f"{world.queue}-other", f"{world.kind}.other"
    world.declare(other_kind, other_queue)
    bound = world.admin.with_key(world.key("work", "produce", queues=[world.queue], kinds=[world.kind]))
    answer = bound.call("POST", "/v1/workers", registration(world, queues=[world.queue, other_queue]))
    expect(answer.status == 403, f"a worker of a queue outside of the key's: {answer}")
    expect(other_queue in answer.body["detail"], f"the queue is not named: {answer}")
    answer = bound.call("POST", "/v1/jobs", {"kind": other_kind, "payload": {}})
    expect(answer.status == 403, f"a job of a kind outside of the key's: {answer}")
    expect(other_kind in answer.body["detail"], f"the kind is not named: {answer}")
    equal(world.jobs(other_queue), {}, "jobs of the other kind")
    worker = register(world, bound, kinds=[world.kind])
    job = bound.ok("POST", "/v1/jobs", {"kind": world.kind, "payload": {}})["id"]
    jobs = pull(bound, worker, wait=5)
    equal([given["id"] for given in jobs], [job], "what the bound worker is given")
    equal(finish(world, worker, outcome(jobs[0]), api=bound), ["stored"], "its outcome")


@server_scenario("another key's worker does not exist for a key")
def worker_of_another_key(world: World) -> None:
    world.declare()
    worker = register(world)
    other = world.admin.with_key(world.key("work"))
    for path, body in [("pull", {"max": 1}), ("heartbeat", {}), ("finish", {"outcomes": []})]:
        is_refused(other.call("POST", f"/v1/workers/{worker}/{path}", body), 404, "worker-not-found")
    is_refused(other.call("DELETE", f"/v1/workers/{worker}"), 404, "worker-not-found")


@server_scenario("an outcome under a fence that is not the worker's changes nothing, and the right one is stored")
def foreign_fence(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    worker = register(world)
    given = pull(world.admin, worker, wait=5)[0]
    for fence in ("7.3", "", "no fence", "99999999999999999999.0"):
        equal(finish(world, worker, {**outcome(given), "fence": fence}), ["lease_lost"], f"the fence {fence!r}")
        equal(world.job(job)["state"], "running", "the job's state")
    other = register(world)
    equal(finish(world, other, outcome(given)), ["lease_lost"], "another worker with the right fence")
    equal(finish(world, worker, outcome(given, result=1)), ["stored"], "the right fence")
    equal(world.job(job)["result"], 1, "the result")


@server_scenario("the outcome of a job that does not exist is answered unknown, and the others of the call are stored")
def unknown_job(world: World) -> None:
    world.declare()
    world.enqueue({})
    worker = register(world)
    given = pull(world.admin, worker, wait=5)[0]
    stranger = {**outcome(given), "job": "01JD3V0S7W8Q4M2XKZC5T9R6BH"}
    equal(finish(world, worker, stranger, outcome(given)), ["unknown", "stored"], "the two outcomes")


@server_scenario("a result that its schema refuses makes a dead letter that says why, and the client is told")
def refused_result(world: World) -> None:
    world.declare(result_schema={"type": "object", "properties": {"width": {"type": "integer"}}, "required": ["width"]})
    job = world.enqueue({})
    worker = register(world)
    given = pull(world.admin, worker, wait=5)[0]
    body = {"outcomes": [outcome(given, result={"width": "wide"})]}
    answer = world.admin.ok("POST", f"/v1/workers/{worker}/finish", body)["outcomes"][0]
    equal(answer["status"], "stored", "the status")
    expect("width" in answer.get("refused", ""), f"the path is not named: {answer}")
    found = world.job(job)
    equal(found["state"], "discarded", "the job's state")
    expect("width" in found["errors"][0]["message"], f"the dead letter does not say why: {found}")


@server_scenario("an outcome that is sent twice is stored once, and both calls are answered stored")
def outcome_twice(world: World) -> None:
    world.declare()
    jobs = [world.enqueue({}), world.enqueue({})]
    worker = register(world)
    given = pull(world.admin, worker, wait=5)
    done, failed = outcome(given[0], result="first"), outcome(given[1], "failed", error="no", retry_after_seconds=3600)
    equal(finish(world, worker, done, failed), ["stored", "stored"], "the first call")
    equal(finish(world, worker, {**done, "result": "second"}, failed), ["stored", "stored"], "the repeated call")
    equal(world.job(given[0]["id"])["result"], "first", "the result")
    equal(world.job(given[1]["id"])["attempt"], 1, "the attempts")
    equal(len(world.job(given[1]["id"])["errors"]), 1, "the errors")
    equal(sorted(jobs), sorted(job["id"] for job in given), "the jobs")


@server_scenario("of two outcomes of one job in one call the first counts")
def outcome_twice_in_one_call(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    worker = register(world)
    given = pull(world.admin, worker, wait=5)[0]
    statuses = finish(world, worker, outcome(given, result="first"), outcome(given, result="second"))
    equal(statuses, ["stored", "stored"], "the answers")
    equal(world.job(job)["result"], "first", "the result")


@server_scenario("10,000 outcomes in one call are refused, and are all stored in ten calls")
def too_many_outcomes(world: World) -> None:
    world.declare()
    jobs: list[str] = []
    for _ in range(2):
        jobs += world.enqueue_batch([{}] * 1_000)
    worker = register(world)
    given: list[Any] = []
    while len(given) < len(jobs):
        new = pull(world.admin, worker, max=500, wait=5, have=[job["id"] for job in given])
        expect(new, f"only {len(given)} of {len(jobs)} jobs were given")
        given += new
    equal(len({job["id"] for job in given}), len(jobs), "distinct jobs")
    many = [outcome(given[place % len(given)]) for place in range(10_000)]
    is_refused(world.admin.call("POST", f"/v1/workers/{worker}/finish", {"outcomes": many}), 413, "batch-too-large", "outcomes")
    equal({job["state"] for job in world.jobs().values()}, {"running"}, "states after the refusal")
    for start in range(0, 10_000, 1_000):
        equal(set(finish(world, worker, *many[start:start + 1_000])), {"stored"}, "the answers")
    equal({job["state"] for job in world.jobs().values()}, {"completed"}, "states")


@server_scenario("a worker that never sends a heartbeat is lost, and its job goes to another with one crash")
def silent_worker(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    silent = register(world)
    lost = pull(world.admin, silent, wait=5)[0]
    found = world.reaches(job, "available")
    equal((found["crashes"], found["attempt"]), (1, 0), "crashes and attempts")
    is_refused(world.admin.call("POST", f"/v1/workers/{silent}/pull", {"max": 1}), 404, "worker-not-found")
    is_refused(world.admin.call("POST", f"/v1/workers/{silent}/heartbeat", {}), 404, "worker-not-found")
    equal(finish(world, silent, outcome(lost, result="late")), ["lease_lost"], "its late outcome")
    second = register(world)
    given = pull(world.admin, second, wait=5)[0]
    equal(given["id"], job, "the job")
    expect(given["fence"] != lost["fence"], "the fence is a new one")
    equal(finish(world, second, outcome(given, result="in time")), ["stored"], "the second worker's outcome")
    equal(world.job(job)["result"], "in time", "the result")


@server_scenario("a client that is newer than the server is told which field is unknown, and loses nothing")
def newer_client(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    answer = world.admin.call("POST", "/v1/workers", registration(world, gpu=True))
    expect(answer.status in (400, 422) and "gpu" in str(answer.body), f"the field is not named: {answer}")
    worker = register(world)
    answer = world.admin.call("POST", f"/v1/workers/{worker}/pull", {"max": 1, "prefer": "small"})
    expect(answer.status in (400, 422) and "prefer" in str(answer.body), f"the field is not named: {answer}")
    given = pull(world.admin, worker, wait=5)[0]
    body = {"outcomes": [{**outcome(given), "cost": 1}]}
    answer = world.admin.call("POST", f"/v1/workers/{worker}/finish", body)
    expect(answer.status in (400, 422) and "cost" in str(answer.body), f"the field is not named: {answer}")
    equal(world.job(job)["state"], "running", "the job's state")
    equal(finish(world, worker, outcome(given)), ["stored"], "the outcome without the new field")


@server_scenario("a client that is older than the server works without every optional field")
def older_client(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    worker = register(world)
    given = world.admin.ok("POST", f"/v1/workers/{worker}/pull", {"max": 1})["jobs"][0]
    world.admin.ok("POST", f"/v1/workers/{worker}/heartbeat", {})
    equal(finish(world, worker, outcome(given)), ["stored"], "an outcome without a result")
    found = world.job(job)
    equal((found["state"], found["result"]), ("completed", None), "state and result")


@server_scenario("numbers outside of their bounds are refused, and the field is named")
def bounds(world: World) -> None:
    world.declare()
    worker = register(world)
    bad: list[tuple[str, Any, str]] = [
        ("/v1/workers", registration(world, concurrency=0), "concurrency"),
        ("/v1/workers", registration(world, concurrency=10_001), "concurrency"),
        ("/v1/workers", registration(world, queues=[]), "queues"),
        ("/v1/workers", registration(world, name=""), "name"),
        ("/v1/workers", registration(world, kinds=[]), "kinds"),
        (f"/v1/workers/{worker}/pull", {"max": 0}, "max"),
        (f"/v1/workers/{worker}/pull", {"max": 501}, "max"),
        (f"/v1/workers/{worker}/pull", {"max": 1, "wait_seconds": 61}, "wait_seconds"),
        (f"/v1/workers/{worker}/heartbeat", {"progress": {"x": 1}}, "progress.x"),
    ]
    for path, body, field in bad:
        is_refused(world.admin.call("POST", path, body), 422, "invalid-field", field)


@server_scenario("a job whose reply was lost is given again with the same fence, and one that the client has is not")
def given_again(world: World) -> None:
    world.declare()
    jobs = {world.enqueue({}) for _ in range(3)}
    worker = register(world)
    first = {job["id"]: job["fence"] for job in pull(world.admin, worker, wait=5)}
    equal(set(first), jobs, "the first answer")
    have = sorted(jobs)[:1]
    again = {job["id"]: job["fence"] for job in pull(world.admin, worker, have=have)}
    equal(again, {job: fence for job, fence in first.items() if job not in have}, "the second answer")
    equal(pull(world.admin, worker, have=sorted(jobs)), [], "an answer to a client that has all")


@server_scenario("a worker that leaves hands its jobs back at once, without a crash, and may leave twice")
def leaving(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    worker = register(world)
    pull(world.admin, worker, wait=5)
    for _ in range(2):
        equal(world.admin.call("DELETE", f"/v1/workers/{worker}").status, 204, "the answer")
    found = world.job(job)
    equal((found["state"], found["crashes"], found["attempt"]), ("available", 0, 0), "state, crashes and attempts")


@server_scenario("the cancellation of a running job reaches its worker by heartbeat, and ends the job as cancelled")
def cancelled_job(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    worker = register(world)
    given = pull(world.admin, worker, wait=5)[0]
    world.admin.ok("POST", f"/v1/jobs/{job}/cancel")
    beat = world.admin.ok("POST", f"/v1/workers/{worker}/heartbeat", {"running": [job]})
    equal(beat["cancel"], [job], "what is to stop")
    equal(finish(world, worker, outcome(given, "cancelled")), ["stored"], "the outcome")
    equal(world.job(job)["state"], "cancelled", "the job's state")


@server_scenario("a draining worker is told so and is given nothing more")
def draining(world: World) -> None:
    world.declare()
    worker = register(world)
    world.admin.ok("POST", f"/v1/workers/{worker}/drain")
    world.enqueue({})
    expect(world.admin.ok("POST", f"/v1/workers/{worker}/heartbeat", {})["drain"], "the heartbeat says drain")
    answer = world.admin.ok("POST", f"/v1/workers/{worker}/pull", {"max": 1})
    equal((answer["jobs"], answer["drain"]), ([], True), "the pull's answer")


@server_scenario("a job of a kind that the worker does not name is put back for one that does, and is no attempt")
def kind_of_another_worker(world: World) -> None:
    world.declare()
    other = world.declare(f"{world.kind}.other")
    job = world.enqueue({}, kind=other)
    worker = register(world, kinds=[world.kind])
    equal(pull(world.admin, worker, wait=1), [], "what it is given")
    found = world.job(job)
    equal((found["state"], found["attempt"], found["crashes"]), ("scheduled", 0, 0), "state, attempts and crashes")


@server_scenario("a heartbeat that says what the worker no longer has is told what is lost")
def lost_jobs(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    first, second = register(world), register(world)
    pull(world.admin, first, wait=5)
    world.admin.ok("DELETE", f"/v1/workers/{first}")
    pull(world.admin, second, wait=5)
    third = register(world)
    beat = world.admin.ok("POST", f"/v1/workers/{third}/heartbeat", {"running": [job]})
    equal(beat["lost"], [job], "what is lost")


@server_scenario("a worker that sends heartbeats keeps its job for longer than lost_after")
def heartbeats_keep(world: World) -> None:
    world.declare()
    job = world.enqueue({})
    worker = register(world)
    given = pull(world.admin, worker, wait=5)[0]
    silent = register(world)

    def other_is_gone() -> bool:
        # The other worker is the clock: it was registered later, is silent, and is lost after `lost_after`.
        beat = world.admin.call("POST", f"/v1/workers/{worker}/heartbeat", {"running": [job]})
        if beat.status != 200 or beat.body["lost"]:
            raise Failure(f"the worker was lost: {beat}")
        return not any(listed["id"] == silent for listed in world.admin.ok("GET", "/v1/workers")["workers"])

    eventually(other_is_gone, "the silent worker is lost", LOST_AFTER_SECONDS + 60, 0.5)
    equal(finish(world, worker, outcome(given)), ["stored"], "the outcome")
    equal(world.job(job)["crashes"], 0, "the crashes")
