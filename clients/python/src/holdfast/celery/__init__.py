"""Celery on Holdfast: a kombu transport and a result backend.

.. code-block:: python

    import holdfast.celery

    app = Celery(broker="holdfast://:KEY@jobs.internal:8080", backend="holdfast://:KEY@jobs.internal:8080")

Importing this registers the schemes ``holdfast://`` and ``holdfast+https://``. Where the package is installed with its entry points, kombu
and Celery find both by themselves, and the settings ``broker_url`` and ``result_backend`` alone are enough.

A task is a job of the kind ``celery`` in the queue of the same name as Celery's: committed when ``delay()`` returns, leased to a worker
while it has it, given to another when that dies. What becomes of every part of Celery is in :mod:`.transport` (messages),
:mod:`._message` (the form of a job), :mod:`._link` (consuming) and :mod:`.backend` (results, chords); the guide is ``docs/celery.md``.
"""

from holdfast_kombu import register, register_backend

from ._names import queue_name

register()
register_backend()

__all__ = ["queue_name"]
