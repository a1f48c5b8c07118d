"""Makes the schemes known to kombu and Celery. Imports neither before they are needed."""

from __future__ import annotations

TRANSPORT = "holdfast.celery.transport:Transport"
BACKEND = "holdfast.celery.backend:Backend"


def register() -> None:
    """Adds the aliases. Repeats are harmless."""
    from kombu.transport import TRANSPORT_ALIASES

    TRANSPORT_ALIASES["holdfast"] = TRANSPORT
    # Backends of other names than an entry point's are found here too.
    try:
        from celery.app.backends import BACKEND_ALIASES
    except ImportError:
        # Celery itself is being imported; it finds the entry point.
        return
    BACKEND_ALIASES["holdfast"] = BACKEND


#: For the entry point group `kombu.serializers`, the only one that kombu loads by itself when it is imported. Loading it has imported
#: :mod:`holdfast.celery`; what is registered is the name of a serializer without functions, which nothing uses.
SERIALIZER = (None, None, "application/x-holdfast", "utf-8")
