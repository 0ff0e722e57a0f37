from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from daemon.sync import blobs
from daemon.sync import server as servers
from daemon.sync.blobs import parse_range
from daemon.sync.guard import is_known_host
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server
from idiolect import signing, wire
from idiolect.connection import Connection, pin_of
from idiolect.errors import ConfigError
from tests.daemon.homes import until
from tests.daemon.sync.doors import Ask, House, asking, client_tls, house, identity, problem
from tests.daemon.sync.publishing import candidate, model_bytes

SIZE = 3_000_000  # three reads of the server
MODEL = model_bytes(1, SIZE)
DIGEST = hashlib.sha256(MODEL).hexdigest()
BLOB = f"/v1/blobs/sha256:{DIGEST}"
ETAG = f'"sha256:{DIGEST}"'


@pytest.fixture
async def published(store: ReleaseStore, ask: Ask, tmp_path: Path) -> Ask:
    store.publish(candidate(tmp_path, 1, size_bytes=SIZE))
    return ask


async def test_hello(ask: Ask, store: ReleaseStore) -> None:
    status, headers, body = await ask("/v1/hello")
    assert status == 200
    hello = wire.Hello.model_validate_json(body)
    assert (hello.id, hello.api, hello.label, hello.pairing) == (store.repo, [1], "desk", "closed")
    assert abs((hello.now - wire.utc_now()).total_seconds()) < 5
    assert "Server" not in headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


async def test_manifest(ask: Ask, store: ReleaseStore, tmp_path: Path) -> None:
    assert "nothing has been published" in problem(await ask("/v1/manifest"))
    store.publish(candidate(tmp_path))
    status, headers, body = await ask("/v1/manifest")
    assert store.published is not None
    assert (status, headers["ETag"], body) == (200, '"mv-1"', store.published.envelope)
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-cache"
    status, headers, body = await ask("/v1/manifest", method="HEAD")
    assert (status, body, int(headers["Content-Length"])) == (200, b"", len(store.published.envelope))


@pytest.mark.parametrize(
    ("etags", "status"),
    [
        ('"mv-1"', 304),
        ('W/"mv-1"', 304),
        ('"mv-0", "mv-1"', 304),
        ("*", 304),
        ('"mv-2"', 200),
        ("mv-1", 200),
        ("", 200),
    ],
)
async def test_manifest_if_none_match(published: Ask, etags: str, status: int) -> None:
    answer = await published("/v1/manifest", f"If-None-Match: {etags}")
    assert answer[0] == status
    assert answer[1]["ETag"] == '"mv-1"'
    assert bool(answer[2]) == (status == 200)


@pytest.mark.slow
async def test_waiting_for_news(published: Ask, server: Server, store: ReleaseStore, tmp_path: Path) -> None:
    started = time.monotonic()
    waiting = asyncio.create_task(published("/v1/manifest", 'If-None-Match: "mv-1"', "Prefer: respond-async, wait=20"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    store.publish(candidate(tmp_path, 2))
    server.notify()
    assert (await waiting)[1]["ETag"] == '"mv-2"'
    assert (await published("/v1/manifest", 'If-None-Match: "mv-2"', "Prefer: wait=1"))[0] == 304
    assert (await published("/v1/manifest", 'If-None-Match: "mv-1"', "Prefer: wait=20"))[0] == 200
    assert 1 < time.monotonic() - started < 15


async def test_a_manifest_of_last_week_is_renewed(
    published: Ask, server: Server, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[int] = []

    async def announce() -> None:
        announced.append(store.version)

    server.on_renewed = announce
    monkeypatch.setattr(servers, "RENEWAL_LOOK_S", 0.0)
    await published("/v1/manifest")
    assert not announced
    later = wire.utc_now() + timedelta(days=8)
    monkeypatch.setattr(wire, "utc_now", lambda: later)
    status, headers, body = await published("/v1/manifest", 'If-None-Match: "mv-1"')
    assert (status, headers["ETag"]) == (200, '"mv-2"')
    payload = signing.verify(body, signing.MANIFEST_TYPE, store.keys.release_key)
    assert wire.Manifest.model_validate_json(payload).expires == later + timedelta(days=30)
    assert (store.version, announced) == (2, [2])


async def test_roots_are_told_to_anybody(ask: Ask, store: ReleaseStore) -> None:
    status, headers, body = await ask("/v1/root/1", token="")
    assert (status, body, headers["Content-Type"]) == (200, store.keys.root(1), "application/json")
    assert "the chain ends" in problem(await ask("/v1/root/2", token=""))
    for version in ("0", "-1", "01", "1.dsse", "%2e%2e", "9999999"):
        assert (await ask(f"/v1/root/{version}", token=""))[0] == 404


async def test_blob(published: Ask) -> None:
    status, headers, body = await published(BLOB)
    assert (status, body) == (200, MODEL)
    assert headers["ETag"] == ETAG
    assert headers["Content-Length"] == str(SIZE)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == 'attachment; filename="idiolect-tiny-android-futo.bin"'
    assert base64.b64decode(headers["Repr-Digest"].strip("sha-256=:") + "=").hex() == DIGEST
    assert "Content-Encoding" not in headers
    assert "Server" not in headers


@pytest.mark.parametrize(
    ("asked", "status", "first", "end"),
    [
        (["Range: bytes=0-0"], 206, 0, 1),
        (["Range: bytes=0-"], 206, 0, SIZE),
        (["Range: bytes=1000000-2000000"], 206, 1_000_000, 2_000_001),
        (["Range: bytes=2999999-"], 206, SIZE - 1, SIZE),
        (["Range: bytes=-7"], 206, SIZE - 7, SIZE),
        ([f"Range: bytes=-{SIZE + 1}"], 206, 0, SIZE),
        (["Range: bytes=5-99999999999"], 206, 5, SIZE),
        (["Range: BYTES= 5-6 "], 206, 5, 7),
        (["Range: bytes=5-9", f"If-Range: {ETAG}"], 206, 5, 10),
        # Another version of the file, a weak tag, a date: the partial file is not of this one.
        (["Range: bytes=5-9", f"If-Range: W/{ETAG}"], 200, 0, SIZE),
        (["Range: bytes=5-9", 'If-Range: "sha256:0000"'], 200, 0, SIZE),
        (["Range: bytes=5-9", "If-Range: Sun, 22 Nov 2026 11:00:00 GMT"], 200, 0, SIZE),
        # Not a range that is served: as if it were not there.
        (["Range: bytes=0-1,4-5"], 200, 0, SIZE),
        (["Range: bytes=0-1", "Range: bytes=4-5"], 200, 0, SIZE),
        (["Range: bytes=9-5"], 200, 0, SIZE),
        (["Range: bytes=-"], 200, 0, SIZE),
        (["Range: bytes=a-b"], 200, 0, SIZE),
        (["Range: bytes=--5"], 200, 0, SIZE),
        (["Range: seconds=0-1"], 200, 0, SIZE),
        (["Range: bytes=" + "9" * 400 + "-"], 200, 0, SIZE),
        ([f"Range: bytes={SIZE}-"], 416, 0, 0),
        (["Range: bytes=99999999999-"], 416, 0, 0),
        (["Range: bytes=-0"], 416, 0, 0),
        ([f"If-None-Match: {ETAG}"], 304, 0, 0),
        ([f"If-None-Match: {ETAG}", "Range: bytes=0-5"], 304, 0, 0),
        (['If-None-Match: "other"', "Range: bytes=0-5"], 206, 0, 6),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else None,
)
@pytest.mark.slow
async def test_blob_conditions(published: Ask, asked: list[str], status: int, first: int, end: int) -> None:
    answer, headers, body = await published(BLOB, *asked)
    assert answer == status
    if status in {200, 206}:
        assert body == MODEL[first:end]
        assert headers["Content-Length"] == str(end - first)
        assert headers["ETag"] == ETAG
        assert headers["Repr-Digest"].startswith("sha-256=:")
    if status == 206:
        assert headers["Content-Range"] == f"bytes {first}-{end - 1}/{SIZE}"
    if status == 416:
        assert headers["Content-Range"] == f"bytes */{SIZE}"
        assert problem((answer, headers, body))
    if status == 304:
        assert (headers["ETag"], body) == (ETAG, b"")


async def test_blob_head_ignores_ranges(published: Ask) -> None:
    status, headers, body = await published(BLOB, "Range: bytes=5-9", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(SIZE), b"")
    status, headers, body = await published(BLOB, f"If-None-Match: {ETAG}", method="HEAD")
    assert (status, body) == (304, b"")


async def test_an_empty_file_and_ranges() -> None:
    assert parse_range("bytes=0-", 0) == (0, 0)
    assert parse_range("bytes=-5", 0) == (0, 0)
    assert parse_range("bytes=0-0", 1) == (0, 1)


async def test_traversal(published: Ask, store: ReleaseStore) -> None:
    """Whatever is asked, only the digest of a listed file gives a file, and never one from elsewhere."""
    unlisted = (store.blob(DIGEST) or Path()).parent.parent / "00" / ("0" * 64)
    unlisted.parent.mkdir()
    unlisted.write_bytes(b"not published")
    prefixes = ("/v1/blobs/sha256:", "/v1/blobs/sha256%3A", "/v1/blobs/", "/v1/blobs/sha256/", "//v1/blobs/sha256:")
    names = (
        "../../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/repo_id",
        "%252e%252e%252frepo_id",
        "..\\..\\repo_id",
        f"{DIGEST[:2]}/../../../repo_id",
        "",
        "0" * 64,
        DIGEST[:-1],
        DIGEST + "0",
        DIGEST.upper(),
        DIGEST + "%00",
        DIGEST + "%0a",
        DIGEST + "/",
        DIGEST + "/..",
        " " + DIGEST,
        "%ef%bc%90" * 64,
    )
    for prefix in prefixes:
        for name in names:
            status, _, body = await published(prefix + name.replace(" ", "%20"))
            assert status in {400, 404}, prefix + name
            assert len(body) < 500
    assert (await published(f"/v1/blobs/sha256%3A{DIGEST}"))[2] == MODEL


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8737", True),
        ("192.168.1.20:8737", True),
        ("10.0.0.1", True),
        ("[::1]:80", True),
        ("[fd00::2]", True),
        ("localhost:8737", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("k7f3q2mzx5ab.local", True),
        ("K7F3Q2MZX5AB.LOCAL.:8737", True),
        ("evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("localhost.evil.example", False),
        ("0.0.0.0", False),
        ("[::]", False),
        ("8.8.8.8", False),
        ("127.0.0.1@evil.example", False),
        ("127.0.0.1:80:80", False),
        ("127.0.0.1 ", False),
        ("2130706433", False),
        ("0x7f.1", False),
        ("", False),
    ],
)
def test_host_header(host: str, known: bool) -> None:
    assert is_known_host(host, {"k7f3q2mzx5ab.local", "localhost"}) == known


async def test_another_host_is_misdirected(published: Ask, store: ReleaseStore) -> None:
    for path in ("/v1/hello", "/v1/manifest", BLOB, "/nothing"):
        answer = await published(path, name="evil.example")
        assert answer[0] == 421
        assert "evil.example" in problem(answer)
    assert (await published(BLOB, name=None))[0] == 400
    assert (await published("/v1/hello", "Host: evil.example"))[0] in {400, 421}
    assert (await published("/v1/hello", name=f"{store.repo}.local:8737"))[0] == 200
    assert (await published("/v1/hello", name=socket.gethostname()))[0] == 200


async def test_refusals_are_problems(published: Ask) -> None:
    assert problem(await published("/"))
    assert (await published("/v1/hello/"))[0] == 404
    answer = await published("/v1/manifest", "Content-Length: 0", method="POST")
    assert answer[0] == 405
    assert "GET" in answer[1]["Allow"]
    assert problem(answer)


async def test_a_damaged_blob_is_not_served(published: Ask, store: ReleaseStore, tmp_path: Path) -> None:
    blob = store.blob(DIGEST)
    assert blob is not None
    blob.chmod(0o644)
    blob.write_bytes(MODEL[:-1])
    answer = await published(BLOB)
    assert answer[0] == 500
    assert str(tmp_path) not in problem(answer)
    blob.unlink()
    assert (await published(BLOB))[0] == 500
    assert (await published("/v1/hello"))[0] == 200


@pytest.mark.slow
async def test_who_leaves_or_does_not_read_is_let_go(
    home: House,
    store: ReleaseStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.publish(candidate(tmp_path, 7, size_bytes=40_000_000))
    assert store.published is not None
    (digest,) = store.published.files
    ((host, port),) = await home.server.start()
    lines = [f"GET /v1/blobs/sha256:{digest} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {home.token}", "", ""]

    def ask_for_it() -> ssl.SSLSocket:
        connection = client_tls().wrap_socket(socket.create_connection((host, port)))
        connection.sendall("\r\n".join(lines).encode())
        return connection

    def all_of(connection: ssl.SSLSocket) -> int:
        received = 0
        with connection, contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        return received

    slots = home.server._pace.slots
    gone = await asyncio.to_thread(ask_for_it)
    await until(lambda: slots._taken.total() == 1)
    gone.close()
    await until(lambda: slots._taken.total() == 0)
    assert not caplog.records
    monkeypatch.setattr(blobs, "STALL_S", 0.5)
    stuck = await asyncio.to_thread(ask_for_it)
    await until(lambda: bool(caplog.records))
    received = await asyncio.to_thread(all_of, stuck)
    assert received < 40_000_000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "it took no byte" in caplog.text


async def test_a_port_in_use(server: Server, home: House, store: ReleaseStore) -> None:
    ((_, port),) = await server.start()
    with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use") as caught:
        await Server(store, identity(), home.devices, Door("", "127.0.0.1", port)).start()
    assert "[server] port" in caught.value.hint
    for bind in ("203.0.113.77", "no-such-host.invalid"):
        with pytest.raises(ConfigError, match="not an address of this machine"):
            await Server(store, identity(), home.devices, Door("", bind, 0)).start()


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
async def test_the_whole_network(home: House, store: ReleaseStore, bind: str) -> None:
    """Bound to everything, it tells addresses that devices can use, and answers there."""
    if ":" in bind and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    server = Server(store, identity(), home.devices, Door("", bind, 0))
    try:
        for host, port in await server.start():
            assert host not in {"0.0.0.0", "::"}
            reader, writer = await asyncio.open_connection(host, port, ssl=client_tls())
            name = f"[{host}]" if ":" in host else host
            writer.write(f"GET /v1/hello HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await writer.wait_closed()
    finally:
        await server.stop()


@pytest.mark.slow
async def test_the_speed_can_be_limited(store: ReleaseStore, tmp_path: Path) -> None:
    home = house(store, tmp_path / "home", Door("", "127.0.0.1", 0, bytes_per_s=3_000_000))
    store.publish(candidate(tmp_path, 1, size_bytes=SIZE))
    try:
        ((host, port),) = await home.server.start()
        ask = asking(home, host, port, client_tls())
        began = time.monotonic()
        for _ in range(2):  # a second's worth at once, the rest at that speed
            assert (await ask(BLOB))[2] == MODEL
        assert time.monotonic() - began > 0.9
    finally:
        await home.server.stop()
        home.devices.close()


async def test_a_new_address_is_certified_while_transfers_go_on(
    store: ReleaseStore, tmp_path: Path, home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real connections: who is there stays there, who comes sees the new certificate, and the pin is of both."""
    here = ["127.0.0.1"]
    monkeypatch.setattr(servers, "addresses", lambda *_: list(here))
    monkeypatch.setattr(servers, "ADDRESSES_POLL_S", 0.02)
    store.publish(candidate(tmp_path, 1, size_bytes=20 * SIZE))
    ((host, port),) = await home.server.start()
    assert store.published is not None
    (digest,) = store.published.files

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, x509.Certificate]:
        reader, writer = await asyncio.open_connection(host, port, ssl=client_tls(), limit=1 << 16)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return reader, writer, x509.load_der_x509_certificate(der)

    async def seen() -> x509.Certificate:
        _, writer, certificate = await connect()
        writer.close()
        await writer.wait_closed()
        return certificate

    async def asked(path: str) -> bytes:
        lines = f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {home.token}"
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return await reader.readuntil(b"\r\n\r\n")

    reader, writer, before = await connect()
    assert b" 200 " in await asked(f"/v1/blobs/sha256:{digest}")
    sha256 = hashlib.sha256(await reader.readexactly(SIZE))
    here[:] = ["127.0.0.1", "192.168.1.77"]
    while _addresses_of(after := await seen()) == _addresses_of(before):
        await asyncio.sleep(0.02)
    assert (_addresses_of(before), _addresses_of(after)) == (["127.0.0.1"], ["127.0.0.1", "192.168.1.77"])
    assert before.serial_number != after.serial_number
    assert _pin_of(before) == _pin_of(after) == identity().pin
    sha256.update(await reader.readexactly(19 * SIZE))
    assert sha256.hexdigest() == digest
    assert b" 200 " in await asked("/v1/hello")
    writer.close()

    def pinned() -> int:
        with Connection(f"https://{host}:{port}", _pin_of(before), "").request("/v1/hello", timeout_s=60.0) as reply:
            return reply.status

    assert await asyncio.to_thread(pinned) == 200


def _addresses_of(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(each) for each in names.get_values_for_type(x509.IPAddress)]


def _pin_of(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return pin_of(spki)


async def test_stop_ends_those_who_wait(published: Ask, server: Server) -> None:
    waiting = asyncio.create_task(published("/v1/manifest", 'If-None-Match: "mv-1"', "Prefer: wait=25"))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await server.stop()
    assert (await waiting)[0] == 304
    assert time.monotonic() - started < 20  # it would have waited for 25 seconds
    await server.stop()
