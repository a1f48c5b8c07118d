"""Holdfast for Python: enqueue background jobs, and run them.

``Client`` and ``AsyncClient`` enqueue and follow jobs. ``App`` turns functions into kinds of jobs, and ``holdfast worker myapp:app``
runs them. :mod:`holdfast.sql` enqueues inside a transaction of your own, and ``app.testing()`` needs no server.
"""

from ._version import VERSION as __version__
from .aio import AsyncBatch, AsyncClient, AsyncJob
from .app import App, Kind
from .client import Batch, Client, Job
from .context import Context, JobInfo
from .errors import (
    ApiError,
    Cancelled,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    Discard,
    Fault,
    Forbidden,
    HoldfastError,
    InvalidRequest,
    JobFailed,
    JobSignal,
    NotFound,
    PayloadError,
    Retry,
    ServerError,
    Snooze,
    Unauthenticated,
    Unavailable,
    WaitTimeout,
)
from .models import BatchRecord, EnqueueOptions, JobError, JobOptions, JobRecord, KindDefinition, NewJob
from .worker import Worker

__all__ = [
    "ApiError",
    "App",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "Batch",
    "BatchRecord",
    "Cancelled",
    "Client",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "Context",
    "Discard",
    "EnqueueOptions",
    "Fault",
    "Forbidden",
    "HoldfastError",
    "InvalidRequest",
    "Job",
    "JobError",
    "JobFailed",
    "JobInfo",
    "JobOptions",
    "JobRecord",
    "JobSignal",
    "Kind",
    "KindDefinition",
    "NewJob",
    "NotFound",
    "PayloadError",
    "Retry",
    "ServerError",
    "Snooze",
    "Unauthenticated",
    "Unavailable",
    "WaitTimeout",
    "Worker",
    "__version__",
]
