"""idiolect: Whisper models fine-tuned on one voice, pulled from the house's own service.

from idiolect import Client

pulled = Client("models/current", "desktop-whispercpp").pull()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idiolect.client import Client, Pulled, Service, find

__all__ = ["Client", "Pulled", "Service", "find"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Looked up when first asked for, so that `import idiolect.errors` stays light.
    if name not in __all__:
        raise AttributeError(f"module 'idiolect' has no attribute {name!r}")
    import idiolect.client

    return getattr(idiolect.client, name)
