"""Makes the schemes ``holdfast://`` and ``holdfast+https://`` known to kombu and Celery.

A module of its own, outside the package, because kombu imports it whenever it is imported itself: it takes no time, and neither kombu nor
Celery is imported here before it is needed.
"""

from __future__ import annotations

TRANSPORT = "holdfast.celery.transport:Transport"
BACKEND = "holdfast.celery.backend:Backend"


def register() -> None:
    """Adds the aliases. Repeats are harmless."""
    from kombu.transport import TRANSPORT_ALIASES

    TRANSPORT_ALIASES["holdfast"] = TRANSPORT


def register_backend() -> None:
    """For a package that is not installed: Celery finds the entry point of one that is."""
    from celery.app.backends import BACKEND_ALIASES

    BACKEND_ALIASES["holdfast"] = BACKEND


#: For the entry point group `kombu.serializers`, the only one that kombu loads by itself. Importing this module is the purpose; what is
#: registered is the name of a serializer without functions, which nothing uses.
SERIALIZER = (None, None, "application/x-holdfast", "utf-8")

register()
