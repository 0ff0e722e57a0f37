from __future__ import annotations

import time

import pytest

from daemon.sync import limits
from daemon.sync.limits import Bandwidth, RateLimit, Slots, neighbour


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_rate(clock: list[float]) -> None:
    rate = RateLimit(2, 60)
    assert rate.wait_s("a") == 0
    rate.note("a")
    clock[0] += 10
    rate.note("a")
    assert rate.wait_s("a") == 50
    assert rate.wait_s("b") == 0
    clock[0] += 50
    assert rate.wait_s("a") == 0
    rate.note("a")
    assert rate.wait_s("a") == 10


def test_many_addresses_take_little_memory(clock: list[float]) -> None:
    rate = RateLimit(10, 60)
    for number in range(10 * limits.MAX_KEYS):
        rate.note(str(number))
    assert len(rate._notes) <= limits.MAX_KEYS
    for _ in range(10):
        rate.note("last")
    assert rate.wait_s("last") == 60


def test_slots() -> None:
    slots = Slots(2, 3)
    with slots.taken("a") as one, slots.taken("a") as two, slots.taken("a") as three:
        assert (one, two, three) == (True, True, False)
        with slots.taken("b") as four, slots.taken("c") as five:
            assert (four, five) == (True, False)
    with slots.taken("c") as free:
        assert free
    assert not slots._taken


async def test_bandwidth() -> None:
    """A second's worth at once, then no more than the rate."""
    began = time.monotonic()
    bandwidth = Bandwidth(1_000_000)
    for _ in range(12):
        await bandwidth.take(100_000)
    assert time.monotonic() - began > 0.15
    for _ in range(1000):
        await Bandwidth(0).take(1_000_000)


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.168.1.20", "192.168.1.20"),
        ("fd00::1:2:3:4", "fd00::/64"),
        ("fd00::9", "fd00::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("", ""),
    ],
)
def test_who_counts_as_one(address: str, counted_as: str) -> None:
    assert neighbour(address) == counted_as
