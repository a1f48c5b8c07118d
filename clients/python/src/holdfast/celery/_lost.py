"""Tasks that kill the process of the pool which runs them, such as one that needs more memory than there is.

With ``acks_late`` and ``reject_on_worker_lost`` Celery puts such a task back, and would run it again without end. Here a loss is a failed
attempt of the job, and after :data:`MAX_LOSSES` of them Celery is told that the task was rejected: its result is a failure, and the job
is a dead letter. A worker that dies as a whole is counted by the server (``worker.max_crashes``).
"""

from __future__ import annotations

import functools
from typing import Any

#: How often a task may kill its process: as often as a job may crash its worker (``worker.max_crashes`` by default).
MAX_LOSSES = 3

#: In a message's ``delivery_info``: attempts of the job before this one, each of which has lost its process.
LOSSES = "losses"


def limit_losses() -> None:
    """Makes Celery's worker in this process count the losses of tasks that come from Holdfast. Once, however often it is called."""
    from celery.worker.request import Request

    inner = Request.on_failure
    if hasattr(inner, "__wrapped__"):
        return

    @functools.wraps(inner)
    def on_failure(request: Any, exc_info: Any, *args: Any, **options: Any) -> Any:
        if _is_lost_and_goes_back(request, exc_info):
            exc_info = _counted(request, exc_info)
        return inner(request, exc_info, *args, **options)

    Request.on_failure = on_failure


def _is_lost_and_goes_back(request: Any, exc_info: Any) -> bool:
    """Whether Celery would put the task back because its process is gone. A shutdown that ends the pool is no loss."""
    from billiard.exceptions import WorkerLostError
    from celery.worker import state

    task = request.task
    if state.should_terminate not in (None, False) or request._already_cancelled or request._already_revoked or request.acknowledged:
        return False
    if getattr(task, "retry_on_worker_lost", None) or not (task.acks_late and task.reject_on_worker_lost):
        return False
    error = getattr(exc_info.exception, "exc", exc_info.exception)
    if not isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt)):
        return False
    return isinstance(getattr(request._message.channel, "lost", None), dict)


def _has_succeeded(request: Any) -> bool:
    """The process stored its success and died then: Celery acknowledges the task. 5.6 and older do not ask."""
    stored = getattr(request, "_success_was_stored", None)
    return bool(stored and stored())


def _counted(request: Any, exc_info: Any) -> Any:
    """The exception for Celery to go on with: that of a rejected task, if this loss was the last that may be."""
    from billiard.einfo import ExceptionInfo
    from celery.exceptions import Reject

    message = request._message
    losses = int(message.delivery_info.get(LOSSES) or 0) + 1
    reason = f"the task has lost its process, {losses} of {MAX_LOSSES} times: {exc_info.exception}"
    message.channel.lost[message.delivery_tag] = reason
    if losses < MAX_LOSSES or _has_succeeded(request):
        return exc_info
    try:
        raise Reject(reason, requeue=False)
    except Reject:
        return ExceptionInfo()
