"""Tokens, hosts and rates, asked of the real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import time
import warnings
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from daemon.sync import guard, listener
from daemon.sync.devices import READ, RECORD, TOKEN_PREFIX
from daemon.sync.limits import RateLimit
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door
from idiolect import wire
from idiolect.errors import StoreError
from tests.daemon.homes import until
from tests.daemon.sync.doors import Answer, Ask, House, asking, client_tls, house, problem
from tests.daemon.sync.publishing import candidate

UNKNOWN = TOKEN_PREFIX + "x" * 43


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the connection ends, in whichever way."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 20):
            received += chunk
    return received


@pytest.fixture
async def published(store: ReleaseStore, ask: Ask, tmp_path: Path) -> Ask:
    store.publish(candidate(tmp_path / "made", 1))
    return ask


def blob(store: ReleaseStore) -> str:
    assert store.published is not None
    (digest,) = store.published.files
    return f"/v1/blobs/sha256:{digest}"


async def test_without_a_good_token_nothing_is_told(published: Ask, home: House, store: ReleaseStore) -> None:
    shut, was_good = home.devices.add("old", "android", frozenset({READ}))
    home.devices.revoke(shut.id)
    for path in ("/v1/manifest", blob(store), "/v1/blobs/sha256:" + "0" * 64):
        for token in ("", UNKNOWN, was_good):
            answer = await published(path, token=token)
            assert answer[0] == 401
            assert "idiolect pair" in problem(answer)
            assert answer[1]["WWW-Authenticate"] == 'Bearer realm="idiolect"'
    assert (await published("/v1/manifest"))[0] == 200
    assert (await published("/v1/hello", token=""))[0] == 200


@pytest.mark.parametrize("sent", ["Basic aWRsOmlkbA==", "Bearer", "Bearer idl_short", "Bearer idl_" + "ü" * 43, "{}{}"])
async def test_a_token_is_only_taken_as_it_should_be_shown(published: Ask, home: House, sent: str) -> None:
    header = sent.format(f"Bearer {home.token}", "") if "{}" not in sent else f"Bearer {home.token} {home.token}"
    assert (await published("/v1/manifest", f"Authorization: {header}", token=""))[0] in {400, 401}
    assert (await published(f"/v1/manifest?token={home.token}&access_token={home.token}", token=""))[0] == 401
    assert (await published("/v1/manifest", f"Cookie: token={home.token}", token=""))[0] == 401
    assert (await published("/v1/manifest", f"Authorization: Bearer {home.token}"))[0] in {400, 401}  # twice


async def test_wrong_tokens_are_slowed_down(published: Ask, home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(guard.WRONG_TOKENS_PER_MINUTE):
        assert (await published("/v1/manifest", token=UNKNOWN))[0] == 401
    answer = await published("/v1/manifest", token=UNKNOWN)
    assert answer[0] == 429
    assert 0 < int(answer[1]["Retry-After"]) <= 60
    assert problem(answer)
    assert (await published("/v1/manifest"))[0] == 429  # nor can a good one be told from a bad one now
    monkeypatch.setattr(guard, "_asker", lambda request: "192.0.2.7")
    assert (await published("/v1/manifest"))[0] == 200  # from another address


async def test_unknown_and_revoked_tokens_take_equally_long(home: House) -> None:
    device, revoked = home.devices.add("old", "android", frozenset({READ}))
    home.devices.revoke(device.id)
    spent = {UNKNOWN: 0.0, revoked: 0.0}
    for _ in range(2_000):
        for token in spent:
            began = time.process_time()
            assert home.devices.by_token(token) is None
            spent[token] += time.process_time() - began
    shorter, longer = sorted(spent.values())
    assert longer < 5 * shorter + 0.01


async def test_a_route_without_a_scope_is_no_open_door(home: House, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that was added past the table of routes."""
    home.server._guard._scopes = {
        handler: scope for handler, scope in home.server._guard._scopes.items() if scope is not None
    }
    ((host, port),) = await home.server.start()
    assert (await asking(home, host, port, client_tls())("/v1/hello"))[0] == 500
    assert "cannot answer /v1/hello" in caplog.text


async def test_who_asks_too_often_without_a_token_has_to_wait(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RateLimit, "wait_s", lambda self, key: 7 if self._times == 120 else 0)
    answer = await ask("/v1/hello")
    assert (answer[0], answer[1]["Retry-After"]) == (429, "7")
    assert (await ask("/v1/manifest"))[0] == 404  # devices are not held up by it


async def test_scopes(store: ReleaseStore, ask: Ask, home: House, tmp_path: Path) -> None:
    store.publish(candidate(tmp_path / "made", 1))
    _, recorder = home.devices.add("recorder", "android", frozenset({RECORD}))
    answer = await ask("/v1/manifest", token=recorder)
    assert answer[0] == 403
    assert "does not allow" in problem(answer)
    assert (await ask("/v1/devices/self", method="DELETE", token=recorder))[0] == 204
    assert (await ask("/v1/manifest", token=recorder))[0] == 401


async def test_an_expired_token(published: Ask, home: House) -> None:
    device, token = home.devices.add("guest", "android", frozenset({READ}))
    home.devices._change(replace(device, expires_s=int(time.time()) + 60))
    assert (await published("/v1/manifest", token=token))[0] == 200
    home.devices._change(replace(device, expires_s=int(time.time()) - 1))
    assert (await published("/v1/manifest", token=token))[0] == 401


@pytest.mark.slow
async def test_revoking_cuts_what_runs(store: ReleaseStore, home: House, tmp_path: Path) -> None:
    """A stolen phone: its download and its waiting end at once, its next request is refused, others go on."""
    store.publish(candidate(tmp_path / "made", 1, size_bytes=60_000_000))
    ((host, port),) = await home.server.start()
    _, other = home.devices.add("other", "android", frozenset({READ}))
    ask = asking(home, host, port, client_tls())
    other_waits = asyncio.create_task(ask("/v1/manifest", 'If-None-Match: "mv-1"', "Prefer: wait=25", token=other))
    waiting = asyncio.create_task(ask("/v1/manifest", 'If-None-Match: "mv-1"', "Prefer: wait=25"))
    reader, writer = await asyncio.open_connection(host, port, ssl=client_tls(), limit=1 << 16)
    writer.write(f"GET {blob(store)} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {home.token}\r\n\r\n".encode())
    assert await reader.read(1000)
    assert home.server.revoke("phone").label == "phone"
    received = len(await rest(reader))
    writer.close()
    with pytest.raises((ConnectionError, ValueError, IndexError)):  # no answer came
        await waiting
    assert received < 50_000_000
    assert (await ask("/v1/manifest"))[0] == 401
    assert not other_waits.done()
    home.server.notify()
    assert (await other_waits)[0] == 304


@pytest.mark.slow
async def test_revoking_cuts_also_where_nothing_can_be_written(published: Ask, home: House) -> None:
    waiting = asyncio.create_task(published("/v1/manifest", 'If-None-Match: "mv-1"', "Prefer: wait=25"))
    report = wire.dump(wire.Report(release="r-0001", profile="android-futo"))
    assert (await published("/v1/reports", method="POST", body=report))[0] == 204
    home.devices._db.execute("PRAGMA query_only = ON")  # as on a disk that is full or has become read-only
    assert "cannot be written" in problem(answer := await published("/v1/reports", method="POST", body=report))
    assert answer[0] == 507
    assert not waiting.done()
    with pytest.raises(StoreError, match="cannot be written"):
        home.server.revoke("phone")
    with pytest.raises((ConnectionError, ValueError, IndexError)):  # no answer came
        await waiting
    assert (await published("/v1/manifest"))[0] == 401


async def test_no_browser_is_let_through(published: Ask) -> None:
    """A page of the internet: no preflight is answered, no header lets a foreign page read."""
    answer = await published(
        "/v1/manifest",
        "Origin: https://evil.example",
        "Access-Control-Request-Method: GET",
        "Access-Control-Request-Private-Network: true",
        method="OPTIONS",
    )
    assert answer[0] == 405
    for path in ("/v1/hello", "/v1/manifest"):
        headers = (await published(path, "Origin: https://evil.example"))[1]
        assert not [name for name in {**headers, **answer[1]} if name.lower().startswith("access-control")]


async def test_headers_tell_nothing(published: Ask, store: ReleaseStore) -> None:
    for path in ("/v1/hello", "/v1/manifest", blob(store), "/nothing"):
        headers = (await published(path))[1]
        assert "Server" not in headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    hello = json.loads((await published("/v1/hello", token=""))[2])
    assert set(hello) == {"id", "api", "label", "pairing", "now"}


@pytest.mark.slow
async def test_bodies_are_bounded(ask: Ask, home: House) -> None:
    home.server.pairing.open("a" * 12, ["127.0.0.1:1"])

    def post(*headers: str, body: bytes = b"") -> Coroutine[None, None, Answer]:
        return ask("/v1/pair/qr", *headers, method="POST", token="", body=body)

    assert (await post("Transfer-Encoding: chunked"))[0] == 411
    assert (await post("Content-Length: 26214400"))[0] == 413
    assert (await post("Content-Encoding: gzip", body=b"\x1f\x8b"))[0] == 415
    for body in (
        b"{",
        b"[]",
        b'{"secret": 5}',
        b'{"secret": "aaaaaaaaaaaaaaaaaaaaaa", "label": ""}',
        b"\xff",
        b"[" * 60_000,
    ):
        answer = await post(body=body)
        assert answer[0] == 400
        assert len(problem(answer)) < 200


async def test_a_slow_body_is_not_waited_for(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "body_deadline_s", lambda size_bytes: 0.3)
    ((host, port),) = await home.server.start()
    reader, writer = await asyncio.open_connection(host, port, ssl=client_tls())
    writer.write(f"POST /v1/pair/qr HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n{{".encode())
    assert (await asyncio.wait_for(reader.readline(), 120)).startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert guard.body_deadline_s(0) == 0.3
    monkeypatch.undo()
    assert guard.body_deadline_s(65_536 * 100) == 110.0


async def test_half_a_header_is_not_waited_for(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before TLS and within it; who asked in time stays connected."""
    monkeypatch.setattr(listener, "HEADER_S", 0.5)
    ((host, port),) = await home.server.start()
    silent = await asyncio.open_connection(host, port)
    half = await asyncio.open_connection(host, port, ssl=client_tls())
    half[1].write(b"GET /v1/hello HTTP/1.1\r\nHost: 127")
    good = await asyncio.open_connection(host, port, ssl=client_tls())
    good[1].write(f"GET /v1/hello HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert (await good[0].readline()).startswith(b"HTTP/1.1 200 ")
    for reader, _ in (silent, half):
        assert await asyncio.wait_for(rest(reader), 120) == b""
    good[1].write(f"GET /v1/hello HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert (await good[0].read()).count(b"HTTP/1.1 200 ") == 1
    for _, writer in (silent, half, good):
        writer.close()


@pytest.mark.slow
async def test_strangers_share_few_connections(home: House) -> None:
    """Thirty idle connections from one address: 22 are dropped, and who is paired goes on being answered."""
    ((host, port),) = await home.server.start()
    paired = await asyncio.open_connection(host, port, ssl=client_tls())
    request = f"GET /v1/manifest HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {home.token}\r\n\r\n".encode()
    paired[1].write(request)
    assert (await paired[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
    idle = [await asyncio.open_connection(host, port) for _ in range(30)]
    ended = [asyncio.create_task(reader.read(1)) for reader, _ in idle]
    await until(lambda: sum(task.done() for task in ended) >= 30 - listener.MAX_STRANGERS_PER_ADDRESS)
    await asyncio.sleep(0.2)
    answers = await asyncio.gather(*(task for task in ended if task.done()), return_exceptions=True)
    assert len(answers) == 30 - listener.MAX_STRANGERS_PER_ADDRESS
    assert all(answer == b"" or isinstance(answer, ConnectionError) for answer in answers)
    paired[1].write(request)
    assert b"HTTP/1.1 404 " in await asyncio.wait_for(paired[0].readuntil(b"Referrer"), 120)
    for _, writer in (*idle, paired):
        writer.close()
    await asyncio.sleep(0.1)
    assert (await asking(home, host, port, client_tls())("/v1/hello"))[0] == 200


async def test_old_tls_and_no_tls_are_refused(home: House) -> None:
    ((host, port),) = await home.server.start()
    old = client_tls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, port, ssl=old)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET /v1/hello HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert not (await rest(reader)).startswith(b"HTTP")
    writer.close()
    assert (await asking(home, host, port, client_tls())("/v1/hello"))[0] == 200


async def test_the_plain_port_only_reads_and_only_with_its_own_tokens(store: ReleaseStore, tmp_path: Path) -> None:
    home = house(store, tmp_path, Door("desk", "127.0.0.1", 0, plain_port=0))
    store.publish(candidate(tmp_path / "made", 1))
    try:
        ((host, port),) = await home.server.start()
        assert home.server.plain_port is not None
        tls, plain = asking(home, host, port, client_tls()), asking(home, host, home.server.plain_port, None)
        device, compat = home.devices.add("app", "plain", frozenset({READ}), compat=True)
        assert device.expires_s is not None
        assert 89 * 86_400 < device.expires_s - time.time() <= 90 * 86_400
        for path in ("/v1/manifest", blob(store)):
            assert (await plain(path, token=compat))[0] == 200
            assert (await tls(path, token=compat))[0] == 200
            answer = await plain(path)
            assert answer[0] == 403
            assert "TLS only" in problem(answer)
            assert (await plain(path, token=""))[0] == 401
        home.server.pairing.open("a" * 12, ["127.0.0.1:1"])
        for ask in (plain, tls):
            assert (await ask("/v1/devices/self", method="DELETE", token=compat))[0] == 403
        body = b'{"secret": "aaaaaaaaaaaaaaaaaaaaaa", "label": "x"}'
        answer = await plain("/v1/pair/qr", method="POST", body=body, token="")
        assert "over TLS only" in problem(answer)
        assert home.devices.by_token(compat) is not None
    finally:
        await home.server.stop()
        home.devices.close()


async def test_no_plain_port_by_default(ask: Ask, server: House) -> None:
    assert (await ask("/v1/hello"))[0] == 200
    assert Door("", "127.0.0.1", 0).plain_port is None


@pytest.mark.slow
async def test_files_are_sent_in_few_slots(store: ReleaseStore, home: House, tmp_path: Path) -> None:
    """Two at once for each device, four in all; who leaves makes room."""
    store.publish(candidate(tmp_path / "made", 1, size_bytes=60_000_000))
    ((host, port),) = await home.server.start()
    ask = asking(home, host, port, client_tls())
    tokens = [home.token, *(home.devices.add(f"d{i}", "android", frozenset({READ}))[1] for i in range(2))]

    async def stalled(token: str) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(host, port, ssl=client_tls(), limit=1 << 16)
        writer.write(f"GET {blob(store)} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        return writer

    first = [await stalled(tokens[0]), await stalled(tokens[0])]
    answer = await ask(blob(store), "Range: bytes=0-9")
    assert answer[0] == 503
    assert int(answer[1]["Retry-After"]) > 0
    assert (await ask(blob(store), method="HEAD"))[0] == 200
    second = [await stalled(tokens[1]), await stalled(tokens[1])]
    assert (await ask(blob(store), "Range: bytes=0-9", token=tokens[2]))[0] == 503
    first[0].transport.abort()
    await asyncio.sleep(0.3)
    with home.server.beside_training():
        assert (await ask(blob(store), "Range: bytes=0-9", token=tokens[2]))[0] == 503
    assert (await ask(blob(store), "Range: bytes=0-9", token=tokens[2]))[0] == 206
    for writer in (*first, *second):
        writer.transport.abort()


async def test_logs_hold_no_token(published: Ask, home: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await published("/v1/manifest")
    await published("/v1/manifest", token=UNKNOWN)
    await published(f"/v1/pair/{'a' * 16}", token="")
    assert home.token not in caplog.text
    assert UNKNOWN not in caplog.text


async def test_who_leaves_before_the_answer_begins_leaves_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    answered = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        response = web.StreamResponse()
        try:
            await response.prepare(request)
        finally:
            answered.set()
        return response

    app = web.Application(middlewares=[guard.problems])
    app.router.add_get("/", late)
    async with TestServer(app) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await answered.wait()
        writer.close()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
