"""Staying resident: every new model as it is published, by waiting at the service for news."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from idiolect.errors import NotPaired, SyncError

if TYPE_CHECKING:
    from idiolect.client import Client, Pulled

WAIT_S = 25.0
LONGEST_PAUSE_S = 60.0
SHORTEST_ROUND_S = 1.0
"""A service that does not wait is not asked more often than this."""


def watch(
    client: Client,
    on_pulled: Callable[[Pulled], None],
    on_trouble: Callable[[SyncError, float], None],
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Pull again and again while `is_wanted`; `on_pulled` hears of each, changed or not.

    Where it fails `on_trouble` hears why and in how many seconds it is tried again: one at first, a minute at most.
    Raises NotPaired, which time does not mend, SyncError where another process keeps this folder, and UsageError.
    """
    with client.alone():
        pause_s = wait_s = 0.0  # at first what is there is told at once
        while is_wanted():
            began_s = time.monotonic()
            try:
                on_pulled(client.pull(wait_s=wait_s))
                pause_s, wait_s = 0.0, WAIT_S
                rest_s = SHORTEST_ROUND_S - (time.monotonic() - began_s)
            except NotPaired:
                raise
            except SyncError as error:
                pause_s = rest_s = min(LONGEST_PAUSE_S, 2 * pause_s or 1.0)
                on_trouble(error, pause_s)
            if rest_s > 0 and is_wanted():
                time.sleep(rest_s)
