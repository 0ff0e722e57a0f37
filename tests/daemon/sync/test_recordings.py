"""Recordings from devices, asked of the real server: what is taken, what is refused, what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from daemon.intake import transcode
from daemon.sync import guard, recordings
from daemon.sync.devices import READ, RECORD
from daemon.sync.inbox import Quota
from idiolect.sending import MAX_RECORDING_BYTES
from tests.daemon.sync.doors import Ask, asking, client_tls, problem
from tests.daemon.sync.post import ROOMY, Post, files, flac, place, post, state, until_idle, wav
from tests.training.samples import sound, write_wav

pytestmark = pytest.mark.slow

ZEROS = "/v1/recordings/" + "0" * 64
TEXT = json.dumps({"text": "call mum", "lang": "en", "spoken_at": "2026-11-22T11:00:00Z", "source": "app 1"}).encode()


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Post]:
    at = post(tmp_path / "home")
    yield at
    await at.stop()


@pytest.fixture
async def ask(at: Post) -> Ask:
    ((host, port),) = await at.house.server.start()
    return asking(at.house, host, port, client_tls())


def in_inbox(at: Post) -> list[str]:
    return files(at.inbox.arriving.parent)


async def test_a_recording_is_kept_apart_until_it_is_taken_in(ask: Ask, at: Post, tmp_path: Path) -> None:
    data = wav(tmp_path)
    assert (await ask(place(data), method="HEAD"))[0] == 404
    answer = await ask(place(data), method="PUT", body=data)
    assert (answer[0], state(answer)) == (201, "waiting")
    assert json.loads(answer[2])["duration_s"] == 1.0
    answer = await ask(place(data) + "/meta", method="PUT", body=TEXT)
    assert (answer[0], state(answer)) == (200, "waiting")
    assert [(await ask(place(data), method=method))[0] for method in ("HEAD", "GET")] == [200, 200]
    assert files(at.folder) == []

    (waiting,) = at.inbox.all()
    taken = at.inbox.take(waiting.number)
    assert files(at.folder) == sorted(
        f"from-phone-{at.phone.id}/{hashlib.sha256(data).hexdigest()[:32]}.{suffix}" for suffix in ("flac", "txt")
    )
    assert taken.path is not None
    assert taken.path.with_suffix(".txt").read_text() == "call mum\n"
    assert taken.path.read_bytes()[:4] == b"fLaC"
    assert in_inbox(at) == []
    assert state(await ask(place(data))) == "taken"


async def test_sent_twice_it_is_kept_once(ask: Ask, at: Post, tmp_path: Path) -> None:
    data, big = wav(tmp_path), wav(tmp_path, 30.0, seed=1)
    statuses = [
        answer[0] for answer in await asyncio.gather(*(ask(place(data), method="PUT", body=data) for _ in "ab"))
    ]
    assert set(statuses) <= {200, 201}
    assert (await ask(place(data), method="PUT", body=data))[0] == 200
    assert len(at.inbox.all()) == len(in_inbox(at)) == 1
    assert [(await ask(place(big), method="PUT", body=big))[0] for _ in "ab"] == [201, 200]
    for _ in "ab":
        assert (await ask(place(data) + "/meta", method="PUT", body=TEXT))[0] == 200
    at.inbox.refuse(1)
    again = await ask(place(data), method="PUT", body=data)
    assert (again[0], state(again)) == (200, "refused")
    assert (await ask(place(data) + "/meta", method="PUT", body=TEXT))[0] == 200
    assert at.inbox.get(1).meta is None


async def test_who_waits_with_the_body_is_told_when_it_is_wanted(ask: Ask, at: Post, tmp_path: Path) -> None:
    """curl asks so for more than a megabyte."""
    data = wav(tmp_path)
    port = at.house.server.port

    async def begin(token: str, length: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls())
        lines = [f"PUT {place(data)} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}"]
        lines += [f"Content-Length: {length}", "Expect: 100-continue", "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode())
        first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 120)
        if first.startswith(b"HTTP/1.1 100"):
            writer.write(data)
            first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 120)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return first.split(b"\r\n")[0]

    assert b"401" in await begin("idl_" + "x" * 43, len(data))
    assert b"413" in await begin(at.house.token, MAX_RECORDING_BYTES + 1)
    assert b"201" in await begin(at.house.token, len(data))
    assert b"200" in await begin(at.house.token, len(data))


async def test_bodies_without_length_too_long_or_lying(ask: Ask, at: Post, tmp_path: Path) -> None:
    data = wav(tmp_path)
    size = MAX_RECORDING_BYTES + 1
    before = psutil.Process().io_counters().write_bytes
    answer = await ask(ZEROS, f"Content-Length: {size}", method="PUT")
    assert answer[0] == 413
    assert str(MAX_RECORDING_BYTES) in problem(answer)
    chunked = b"5\r\nRIFFx\r\n0\r\n\r\n"
    assert (await ask(ZEROS, "Transfer-Encoding: chunked", method="PUT", body=b""))[0] in {400, 411}
    reader, writer = await asyncio.open_connection("127.0.0.1", at.house.server.port, ssl=client_tls())
    head = f"PUT {ZEROS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {at.house.token}\r\n"
    writer.write(head.encode() + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunked)
    assert b" 411 " in await asyncio.wait_for(reader.readline(), 120)
    writer.close()
    for encoding in ("gzip", "br", "identity, gzip"):
        assert (await ask(place(data), f"Content-Encoding: {encoding}", method="PUT", body=data))[0] == 415
    assert (await ask(ZEROS, method="PUT", body=data))[0] == 400  # other bytes than the address says
    longer = await ask(place(data), f"Content-Length: {len(data) - 1}", "X: y", method="PUT")
    assert longer[0] in {400, 408}
    assert in_inbox(at) == []
    assert psutil.Process().io_counters().write_bytes - before < 1 << 20


async def test_what_breaks_off_leaves_nothing(
    ask: Ask, at: Post, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = wav(tmp_path, 20.0)
    for sent in (0, 1, 70_000, len(data) - 1):
        _, writer = await asyncio.open_connection("127.0.0.1", at.house.server.port, ssl=client_tls())
        head = f"PUT {place(data)} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {at.house.token}\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:sent])
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()
    await until_idle(at)
    assert in_inbox(at) == []
    assert (await ask(place(data), method="PUT", body=data))[0] == 201
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_slow_body_is_not_waited_for(
    ask: Ask, at: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "body_deadline_s", lambda size_bytes: 0.2)
    data = wav(tmp_path)
    reader, writer = await asyncio.open_connection("127.0.0.1", at.house.server.port, ssl=client_tls())
    head = f"PUT {place(data)} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {at.house.token}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:1000])
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 120)
    writer.close()
    assert in_inbox(at) == []


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"MZ\x90 not audio at all", 415, "not audio"),
        (b"#EXTM3U\nfile:///etc/passwd", 415, "not audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd", 415, "not audio"),
        (b"fLaC and no more", 422, "not audio, or only the first bytes"),
        (b"RIFF\xff\xff\xff\xffWAVE", 422, ""),
        (b"ID3\x04" + b"\xff" * 5000, 422, ""),
    ],
)
async def test_what_is_no_recording(ask: Ask, at: Post, data: bytes, status: int, said: str) -> None:
    answer = await ask(place(data), method="PUT", body=data)
    assert answer[0] == status
    assert said in problem(answer)
    assert in_inbox(at) == []


async def test_recordings_that_nobody_can_learn_from(ask: Ask, at: Post, tmp_path: Path) -> None:
    long = wav(tmp_path, 601.0)
    assert "longer than the 10 min" in problem(await ask(place(long), method="PUT", body=long))
    silent = write_wav(tmp_path / "silent.wav", 0 * sound(1.0)).read_bytes()
    assert "silence" in problem(await ask(place(silent), method="PUT", body=silent))
    assert in_inbox(at) == []
    half_minute = flac(tmp_path, 40.0)
    assert (await ask(place(half_minute), method="PUT", body=half_minute))[0] == 201
    answer = await ask(place(half_minute) + "/meta", method="PUT", body=TEXT)
    assert answer[0] == 422
    assert "with times" in problem(answer)
    cues = json.dumps({"text": "1\n00:00:01,000 --> 00:00:02,000\nhi\n", "format": "srt"}).encode()
    assert (await ask(place(half_minute) + "/meta", method="PUT", body=cues))[0] == 200
    path = at.inbox.take(1).path
    assert path is not None
    assert path.with_suffix(".srt").exists()


BAD_META: list[dict[str, Any]] = [
    {},
    {"text": ""},
    {"text": "a\u0000b"},
    {"text": "a\x1b[2J"},
    {"text": "x" * 60_001},
    {"text": "a", "path": "/etc/passwd"},
    {"text": "a", "format": "../../x"},
    {"text": "a", "lang": "../de"},
    {"text": "a", "spoken_at": "yesterday"},
    {"text": ["a"]},
    {"text": "   \n"},
]


@pytest.mark.parametrize("meta", BAD_META, ids=lambda meta: json.dumps(meta)[:30])
async def test_texts_are_only_texts(ask: Ask, at: Post, tmp_path: Path, meta: dict[str, Any]) -> None:
    data = wav(tmp_path)
    assert (await ask(place(data) + "/meta", method="PUT", body=TEXT))[0] == 404
    assert (await ask(place(data), method="PUT", body=data))[0] == 201
    assert (await ask(place(data) + "/meta", method="PUT", body=json.dumps(meta).encode()))[0] in {400, 422}
    assert at.inbox.get(1).meta is None


async def test_the_text_of_what_was_taken_in_is_the_users_own(ask: Ask, at: Post, tmp_path: Path) -> None:
    data = wav(tmp_path)
    await ask(place(data), method="PUT", body=data)
    await ask(place(data) + "/meta", method="PUT", body=TEXT)
    at.inbox.take(1, text="call my mum")
    assert (await ask(place(data) + "/meta", method="PUT", body=TEXT))[0] == 200  # as before, so nothing is asked for
    other = json.dumps({"text": "transfer all the money"}).encode()
    assert (await ask(place(data) + "/meta", method="PUT", body=other))[0] == 409
    path = at.inbox.get(1).path
    assert path is not None
    assert path.with_suffix(".txt").read_text() == "call my mum\n"


async def test_nobody_sees_what_others_sent(ask: Ask, at: Post, tmp_path: Path) -> None:
    data = wav(tmp_path)
    assert (await ask(place(data), method="PUT", body=data))[0] == 201
    _, other = at.house.devices.add("tablet", "android", frozenset({READ, RECORD}))
    _, reader = at.house.devices.add("speaker", "linux", frozenset({READ}))
    _, compat = at.house.devices.add("old", "plain", frozenset({READ, RECORD}), compat=True)
    assert (await ask(place(data), token=other))[0] == 404
    assert (await ask(place(data), token=""))[0] == 401
    for token in (reader, compat):
        assert (await ask(place(data), token=token))[0] == 403
        assert (await ask(place(data), method="PUT", body=data, token=token))[0] == 403
        assert (await ask(place(data) + "/meta", method="PUT", body=TEXT, token=token))[0] == 403
    assert (await ask(place(data), method="PUT", body=data, token=other))[0] == 201
    assert [each.device_label for each in at.inbox.all()] == ["phone", "tablet"]


@pytest.mark.parametrize(
    "name", ["../" * 8 + "etc/passwd", "%2e%2e%2f" * 4, "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "%00", "0" * 64 + "/x"]
)
async def test_only_digests_name_recordings(ask: Ask, at: Post, name: str) -> None:
    for method in ("GET", "HEAD", "PUT"):
        assert (await ask(f"/v1/recordings/{name}", method=method, body=b"x" * (method == "PUT")))[0] in {404, 405}
    assert in_inbox(at) == []


async def test_a_device_sends_so_much_and_so_often(
    ask: Ask, at: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = flac(tmp_path), flac(tmp_path, seed=1)
    assert (await ask(place(first), method="PUT", body=first))[0] == 201
    monkeypatch.setattr(at.inbox, "_quota", Quota(len(first) + 1000, 1 << 30, 0))
    answer = await ask(place(second), method="PUT", body=second)
    assert answer[0] == 507
    assert "as much as it may" in problem(answer)
    monkeypatch.setattr(at.inbox, "_quota", Quota(1 << 30, len(first) + 1000, 0))
    assert (await ask(place(second), method="PUT", body=second))[0] == 507
    monkeypatch.setattr(at.inbox, "_quota", Quota(free_bytes=1 << 60))
    assert "disk" in problem(await ask(place(second), method="PUT", body=second))
    monkeypatch.setattr(at.inbox, "_quota", ROOMY)
    for _ in range(recordings.PER_MINUTE):
        at_most = await ask(ZEROS, method="PUT", body=b"fLaC" + b"x" * 20)
        if at_most[0] == 429:
            break
    assert at_most[0] == 429
    assert 0 < int(at_most[1]["Retry-After"]) <= 60
    assert (await ask(place(first), method="PUT", body=first))[0] == 200
    assert len(at.inbox.all()) == 1


async def test_few_at_once(ask: Ask, at: Post, tmp_path: Path) -> None:
    data = wav(tmp_path)
    waiting = []
    for _ in range(recordings.UPLOADS_PER_DEVICE):
        connection = await asyncio.open_connection("127.0.0.1", at.house.server.port, ssl=client_tls())
        head = f"PUT {ZEROS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {at.house.token}\r\n"
        connection[1].write(f"{head}Content-Length: 1000\r\n\r\nRIFF".encode() + b"x" * 20)
        waiting.append(connection)
    async with asyncio.timeout(120):
        while len(list(at.inbox.arriving.iterdir())) < len(waiting):
            await asyncio.sleep(0.02)
    answer = await ask(place(data), method="PUT", body=data)
    assert answer[0] == 503
    assert int(answer[1]["Retry-After"]) > 0
    for _, writer in waiting:
        writer.transport.abort()
    await until_idle(at)
    assert (await ask(place(data), method="PUT", body=data))[0] == 201


async def test_a_decoder_that_hangs_or_cannot_start(
    ask: Ask, at: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = wav(tmp_path)
    hangs = (sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(60)")
    monkeypatch.setattr(recordings, "COMMAND", hangs)
    monkeypatch.setattr(recordings, "TIMEOUT_S", 1.0)
    answer = await ask(place(data), method="PUT", body=data)
    assert answer[0] == 422
    assert "within 1 s" in problem(answer)
    monkeypatch.setattr(recordings, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    assert (await ask(place(data), method="PUT", body=data))[0] == 503
    assert in_inbox(at) == []


async def test_no_room_in_the_middle(ask: Ask, at: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = wav(tmp_path)
    said = f'{{\\"state\\":\\"rejected\\",\\"reason\\":\\"{transcode.DISK_FULL}\\"}}'
    fake = f"print('ready', flush=True); input(); print(\"{said}\")"
    with monkeypatch.context() as patch:
        patch.setattr(recordings, "COMMAND", (sys.executable, "-c", fake))
        assert (await ask(place(data), method="PUT", body=data))[0] == 507
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    assert (await ask(place(data), method="PUT", body=data))[0] == 507
    monkeypatch.setattr(Path, "rename", rename)
    assert in_inbox(at) == []
    assert (await ask(place(data), method="PUT", body=data))[0] == 201


async def test_logs_tell_nothing(ask: Ask, at: Post, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    data = wav(tmp_path)
    await ask(place(data), method="PUT", body=data)
    await ask(place(data) + "/meta", method="PUT", body=json.dumps({"text": "sesame secret"}).encode())
    at.inbox.take(1)
    assert "sesame" not in caplog.text
    assert at.house.token not in caplog.text
    for path in (at.inbox.arriving.parent, *at.inbox.arriving.parent.rglob("*"), *at.folder.rglob("*.*")):
        assert path.stat().st_mode & 0o077 == 0 or path.is_dir()
    assert at.inbox.arriving.parent.stat().st_mode & 0o777 == 0o700
