"""A question to a file system that may not answer for hours, as a network's: nobody has to wait for its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Late(TimeoutError):
    """The answer takes longer; it may yet come."""


class Errand(Generic[T]):
    """Runs `call` in a thread of its own, which nothing joins: a stop does not wait for it either."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._answer: Future[T] = Future()
        self._answer.set_running_or_notify_cancel()  # who waits no longer must not take the answer from the next
        self._late = False
        threading.Thread(target=self._run, args=(call,), name="errand", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether the call has come back."""
        return self._answer.done()

    async def result(self, patience_s: float) -> T:
        """What the call returned or raised. Late when that takes longer, and then at once until it has come."""
        if self._answer.done():
            return self._answer.result()
        if self._late:
            raise Late
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.wrap_future(self._answer)
        except TimeoutError:
            if self._answer.done():
                return self._answer.result()
            self._late = True
            raise Late from None

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._answer.set_result(call())
        except BaseException as error:  # belongs to whoever asks for the result
            self._answer.set_exception(error)
