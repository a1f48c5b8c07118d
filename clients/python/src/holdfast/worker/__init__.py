"""The worker: pulls jobs, runs their handlers, and reports outcomes.

Parts
    One event loop, the *protocol loop*, owns all state and makes every call: :mod:`._puller` pulls, :mod:`._sender` reports outcomes,
    progress and lines, :mod:`._sessions` registers, :mod:`._runs` is the table of jobs. Handlers never run on it: plain functions run
    in threads, async functions on a loop of their own in another thread (:mod:`._runners`). What handlers tell comes back through one
    inbox. Heartbeats come from another process (:mod:`holdfast._pulse`), because a handler can hold Python's lock inside one C call for
    longer than a lease lives. ``--processes N`` starts N workers, each in a new interpreter (:mod:`._supervisor`): nothing is forked.

States
    Of a run (one execution of a job): *running* → *ended* (its outcome is held) → *settled* (the server has answered) and forgotten.
    A run can be *lost*: the lease is another's, and its handler is asked to stop.
    Of a session (one registration): *current* → *retiring* (``register_again``: its runs end, nothing is pulled) → *deleted*;
    or *gone*: the server does not know it any more.
    Of the worker: starting → working → draining → stopped.

Invariants
    - One pull at a time for each session. It names every run of the session that is not lost; what is pulled is added to the table
      before the next pull is written. So a job is never run twice by this worker under one fence.
    - A run is known by (job, fence), not by its job: a job that was snoozed may come again before its first outcome is answered.
    - An outcome is dropped only when the server has answered it, or has refused it for good (logged as an error).
    - Durations are measured with the monotonic clock. The wall clock is never read.
    - Bounded: running handlers (``concurrency``), held outcomes (``held_limit``, and bytes), lines, connections, every wait.

What if a step is late, not absent
    - *The reply of a pull that was given up*: the connection is closed with it, so it cannot be read. What that pull claimed is
      leased to this worker and in no ``have``: the next pull gives it.
    - *A finish timed out and was stored*: it is sent again, and answered ``stored``; for a snooze ``lease_lost``, because it leaves
      no trace. Both settle the run.
    - *A heartbeat arrives after the lease has passed*: the answer names the lost runs, or is ``worker-not-found``: then the worker
      registers again, and what still runs is lost. Its outcomes are sent nevertheless, under the old id: the fence decides.
    - *An answer to a heartbeat is older than a run*: each list of runs has a number, and an answer counts only for runs that its
      list named. A job that came again after that is not concerned.
    - *A stop comes while a registration is under way*: the registration is awaited, for its timeout at most, and deleted.
    - *A handler goes on after its deadline*: the outcome (failed, timed out) is sent at the deadline; an async handler is cancelled,
      a thread cannot be. What it does later is in vain; as many such threads as ``concurrency`` stop the pulling,
      and after a minute a worker of the command line ends, to be started again.
    - *The process hangs* (a C call that never returns Python's lock): its heartbeats go on while its jobs have time left, and 30 s
      more. Then they end, and the jobs are rescued; a worker of the command line is killed.

When things fail
    - *The API is unavailable*: handlers go on, outcomes are held, every call is repeated with jitter, ``Retry-After`` is obeyed.
    - *The key is refused while working*: the same, with an error in the log. At the start it ends the worker.
    - *The worker is killed*: its heartbeat process sees the pipe close and ends; the jobs are rescued.
    - *The heartbeat process is killed*: another is started.
"""

from ._worker import Worker, WorkerStats

__all__ = ["Worker", "WorkerStats"]
