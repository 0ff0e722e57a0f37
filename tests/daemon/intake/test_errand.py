import asyncio
import threading

import pytest

from daemon.intake.errand import Errand


async def test_gives_what_the_call_gives() -> None:
    assert await Errand(lambda: 7).result(10) == 7

    with pytest.raises(ZeroDivisionError):
        await Errand(lambda: 1 // 0).result(10)


async def test_a_late_answer_is_kept_for_who_asks_again() -> None:
    gate = threading.Event()

    def slow() -> str:
        gate.wait()
        return "late"

    errand = Errand(slow)

    for patience_s in (0.01, 3600.0):  # the second time nobody waits
        with pytest.raises(TimeoutError):
            await errand.result(patience_s)
    gate.set()
    while True:
        try:
            assert await errand.result(0) == "late"
            break
        except TimeoutError:
            await asyncio.sleep(0.01)


async def test_who_is_cancelled_does_not_end_the_call() -> None:
    gate = threading.Event()
    errand = Errand(gate.wait)
    asking = asyncio.create_task(errand.result(3600))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    gate.set()

    assert await errand.result(3600) is True
