"""The window: what it lets in, what it refuses, and what somebody in between can do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from pathlib import Path

import pytest

from daemon.sync import pairing as module
from daemon.sync.devices import READ, RECORD, Devices
from daemon.sync.pairing import MAX_PENDING, OPEN_S, Attempt, PairingDesk, Refusal
from idiolect.errors import UsageError
from idiolect.pairing import PAIR_EXPIRES_S, commitment, six_digits
from tests.daemon.sync.doors import Ask, House, identity, problem

NONCE = b"n" * 32


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> PairingDesk:
    return PairingDesk(identity(), Devices(tmp_path / "devices.sqlite3"), clock)


def opened(desk: PairingDesk) -> str:
    return desk.open("a" * 12, ["127.0.0.1:1"]).secret


def test_of_many_addresses_the_steady_ones_are_shown(desk: PairingDesk) -> None:
    shown = desk.open("a" * 12, [*(f"[fd00::{i}]:1" for i in range(9)), "192.168.1.2:1"]).addresses
    assert len(shown) == 8
    assert shown[:2] == ("192.168.1.2:1", "[fd00::0]:1")


def begun(desk: PairingDesk, address: str = "10.0.0.1", nonce: bytes = NONCE) -> Attempt:
    return desk.begin("phone", "android", commitment(nonce), address)


def status(caught: pytest.ExceptionInfo[Refusal]) -> int:
    return caught.value.status


def test_the_window_is_closed_by_default_and_closes_again(desk: PairingDesk, clock: Clock) -> None:
    for _ in range(2):
        assert not desk.is_open
        with pytest.raises(Refusal) as caught:
            begun(desk)
        assert status(caught) == 403
        with pytest.raises(Refusal) as caught:
            desk.by_secret("", "phone", "android", "10.0.0.1")
        assert status(caught) == 403
        secret = opened(desk)
        assert desk.is_open
        clock.now_s += OPEN_S
        with pytest.raises(Refusal) as caught:
            desk.by_secret(secret, "phone", "android", "10.0.0.1")
        assert status(caught) == 403


def test_the_secret_opens_once(desk: PairingDesk) -> None:
    old = opened(desk)
    secret = opened(desk)
    for wrong in (old, "", secret[:-1], secret + "a"):
        with pytest.raises(Refusal) as caught:
            desk.by_secret(wrong, "phone", "android", "10.0.0.1")
        assert status(caught) == 403
    device, token = desk.by_secret(secret, "phone", "android", "10.0.0.1")
    assert desk.last == device
    assert device.scopes == {READ, RECORD}
    assert token.startswith("idl_")
    assert not desk.is_open
    with pytest.raises(Refusal):
        desk.by_secret(secret, "phone", "android", "10.0.0.1")
    opened(desk)
    with pytest.raises(Refusal):
        desk.by_secret(secret, "phone", "android", "10.0.0.1")


async def test_digits_agreed_to(desk: PairingDesk) -> None:
    opened(desk)
    attempt = begun(desk)
    assert desk.to_compare() == []
    desk.reveal(attempt.pair_id, NONCE)
    assert attempt.digits == six_digits(identity().spki, NONCE, attempt.nonce_s)
    assert await desk.decision(attempt.pair_id, 0.01) is None
    desk.decide(attempt.pair_id, agreed=True)
    granted = await desk.decision(attempt.pair_id, 1)
    assert granted is not None
    assert granted[0] == desk.last
    assert not desk.is_open
    with pytest.raises(Refusal) as caught:
        await desk.decision(attempt.pair_id, 1)
    assert status(caught) == 410


async def test_digits_not_agreed_to(desk: PairingDesk) -> None:
    opened(desk)
    attempt = begun(desk)
    desk.reveal(attempt.pair_id, NONCE)
    waiting = asyncio.create_task(desk.decision(attempt.pair_id, 20))
    await asyncio.sleep(0)
    desk.decide(attempt.pair_id, agreed=False)
    with pytest.raises(Refusal, match="not agreed"):
        await waiting
    assert desk.last is None
    assert desk.is_open
    with pytest.raises(UsageError, match="no longer waits"):
        desk.decide(attempt.pair_id, agreed=True)


async def test_a_wrong_or_missing_reveal_is_never_shown(desk: PairingDesk) -> None:
    opened(desk)
    silent, wrong = begun(desk), begun(desk)
    with pytest.raises(Refusal) as caught:
        desk.reveal(wrong.pair_id, b"m" * 32)
    assert status(caught) == 409
    with pytest.raises(Refusal) as caught:  # and the attempt is burnt
        desk.reveal(wrong.pair_id, NONCE)
    assert status(caught) == 409
    desk.reveal(silent.pair_id, NONCE)
    with pytest.raises(Refusal) as caught:  # a second nonce cannot follow
        desk.reveal(silent.pair_id, NONCE)
    assert status(caught) == 409
    assert desk.to_compare() == []
    third = begun(desk)
    with pytest.raises(UsageError):
        desk.decide(third.pair_id, agreed=True)


def test_a_flood_is_held_off(desk: PairingDesk, clock: Clock) -> None:
    opened(desk)
    first = [begun(desk, f"10.0.0.{number}") for number in range(MAX_PENDING)]
    with pytest.raises(Refusal) as caught:
        begun(desk, "10.0.0.9")
    assert (status(caught), caught.value.wait_s) == (429, PAIR_EXPIRES_S)
    with pytest.raises(Refusal):
        desk.reveal(first[0].pair_id, b"m" * 32)
    with pytest.raises(Refusal) as caught:  # breaking off gives no place back
        begun(desk, "10.0.0.9")
    assert status(caught) == 429
    clock.now_s += PAIR_EXPIRES_S
    with pytest.raises(Refusal) as caught:
        desk.reveal(first[1].pair_id, NONCE)
    assert status(caught) == 410
    assert begun(desk, "10.0.0.9")


def test_one_address_tries_ten_times_an_hour(desk: PairingDesk, clock: Clock) -> None:
    for number in range(module.ATTEMPTS_PER_HOUR + 1):
        secret = opened(desk)
        clock.now_s += PAIR_EXPIRES_S
        if number < module.ATTEMPTS_PER_HOUR:
            begun(desk)
        else:
            with pytest.raises(Refusal) as caught:
                begun(desk)
            assert (status(caught), caught.value.wait_s > 0) == (429, True)
            with pytest.raises(Refusal):
                desk.by_secret(secret, "phone", "android", "10.0.0.1")
    assert begun(desk, "10.0.0.2")


@pytest.mark.slow
def test_who_sits_in_between_can_only_guess() -> None:
    """A relay with a key of its own, and every freedom the protocol leaves: it answers the phone with a nonce of its
    choice after it has seen the phone's commitment, and commits to the desktop before it sees the desktop's nonce. In
    100,000 pairings the two sides show the same digits once at most (expected: 0.1)."""
    rng = random.Random(5)
    phones_key, desktops_key = b"the relay's key", b"the desktop's key"
    equal = 0
    for _ in range(100_000):
        nonce_c, nonce_s, to_phone, to_desktop = (rng.randbytes(32) for _ in range(4))
        equal += six_digits(phones_key, nonce_c, to_phone) == six_digits(desktops_key, to_desktop, nonce_s)
    assert equal <= 1


@pytest.mark.slow
def test_without_the_commitment_somebody_in_between_would_win() -> None:
    """Why the commitment is there: who may choose its nonce last finds equal digits in a moment."""
    nonce_c, nonce_s, shown = b"c" * 32, b"s" * 32, six_digits(b"relay", b"c" * 32, b"r" * 32)
    found = next(
        number for number in range(20_000_000) if six_digits(b"desktop", number.to_bytes(32, "big"), nonce_s) == shown
    )
    assert commitment(found.to_bytes(32, "big")) != commitment(nonce_c)


def test_six_digits_of_known_input() -> None:
    digest = hashlib.sha256(b"idiolect-sas-v1" + b"k" * 91 + b"c" * 32 + b"s" * 32).digest()
    assert six_digits(b"k" * 91, b"c" * 32, b"s" * 32) == str(int.from_bytes(digest[:8], "big"))[-6:]
    seen = {six_digits(b"k", number.to_bytes(4, "big"), b"s") for number in range(2000)}
    assert {len(digits) for digits in seen} == {6}
    assert any(digits.startswith("0") for digits in seen)


async def test_over_the_wire(ask: Ask, home: House) -> None:
    post = {"method": "POST", "token": ""}
    begin = json.dumps({"commit": commitment(NONCE), "label": "phone", "platform": "android"}).encode()
    assert json.loads((await ask("/v1/hello", token=""))[2])["pairing"] == "closed"
    answer = await ask("/v1/pair", body=begin, **post)
    assert answer[0] == 403
    assert "idiolect pair" in problem(answer)
    home.server.pairing.open("a" * 12, ["127.0.0.1:1"])
    assert json.loads((await ask("/v1/hello", token=""))[2])["pairing"] == "open"
    status, headers, body = await ask("/v1/pair", body=begin, **post)
    assert status == 201
    assert headers["Cache-Control"] == "no-store"
    started = json.loads(body)
    path = f"/v1/pair/{started['pair_id']}"
    assert (await ask(f"{path}/reveal", body=json.dumps({"nonce_c": NONCE.hex()}).encode(), **post))[0] == 204
    (asking,) = home.server.pairing.to_compare()
    assert asking.digits == six_digits(identity().spki, NONCE, bytes.fromhex(started["nonce_s"]))
    waiting = asyncio.create_task(ask(path, token=""))
    await asyncio.sleep(0.05)
    home.server.pairing.decide(asking.pair_id, agreed=True)
    status, _, body = await waiting
    granted = json.loads(body)
    assert status == 200
    assert (await ask("/v1/manifest", token=granted["token"]))[0] == 404
    assert (await ask(path, token=""))[0] == 410
    for _ in range(MAX_PENDING):
        home.server.pairing.open("a" * 12, ["127.0.0.1:1"])
        answer = await ask("/v1/pair", body=begin, **post)
    assert answer[0] == 201
    answer = await ask("/v1/pair", body=begin, **post)
    assert answer[0] == 429
    assert int(answer[1]["Retry-After"]) == PAIR_EXPIRES_S
    wrong = json.dumps({"secret": "a" * 22, "label": "phone"}).encode()
    assert (await ask("/v1/pair/qr", body=wrong, **post))[0] == 403
