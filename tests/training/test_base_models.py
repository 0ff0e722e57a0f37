"""The table of tiers, what is cached, and a download from a hub on loopback that breaks and goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from idiolect.errors import CheckpointError, UsageError
from training import base_models

BREAKS_AT = 12_000_000  # bytes; the client keeps whole pieces of 10 MB
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The read routes of a model hub over one folder; breaks the first answer of the weights in the middle."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.break_once = False
        self.ranges: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, send_body: bool) -> None:
        if self.path.startswith("/api/models/me/whisper"):
            names = sorted(path.name for path in self.server.folder.iterdir())
            siblings = [{"rfilename": name, "size": (self.server.folder / name).stat().st_size} for name in names]
            self._send(
                200, json.dumps({"id": "me/whisper", "sha": COMMIT, "siblings": siblings}).encode(), {}, send_body
            )
            return
        path = self.server.folder / self.path.rsplit("/", 1)[-1]
        if not self.path.startswith("/me/whisper/resolve/") or not path.is_file():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, send_body)
            return
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        first = 0
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            first = int(wanted.removeprefix("bytes=").split("-")[0])
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        if send_body and self.server.break_once and path.suffix == ".safetensors":
            self.server.break_once = False
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[:BREAKS_AT])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(206 if first else 200, data[first:], headers, send_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], send_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def hub(nano: Path, tmp_path: Path) -> Iterator[Hub]:
    shutil.copytree(nano, tmp_path / "repo")
    server = Hub(tmp_path / "repo")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def _fetch(hub: Hub, name: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """`idiolect models fetch` as users run it: huggingface_hub reads its environment once, when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "IDIOLECT_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "daemon.cli", "models", "fetch", name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_nano_ships_with_the_package(cache: Path) -> None:
    folder = base_models.resolve("nano", cache)
    assert base_models.is_cached("nano", cache)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 51_865
    assert base_models.resolve("nano", cache) == folder


@pytest.mark.parametrize("tier", ["tiny", "small", "large-v3-turbo"])
def test_other_tiers_are_not_here_until_fetched(tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert not base_models.is_cached(tier, tmp_path)
    with pytest.raises(CheckpointError, match=f"idiolect models fetch {tier}"):
        base_models.resolve(tier, tmp_path)


def test_a_name_that_means_nothing_names_what_would(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose a tier") as error:
        base_models.resolve("tinny", tmp_path)
    assert "'tinny'" in error.value.message


def test_a_file_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "me.bin").touch()
    with pytest.raises(UsageError, match=r"me\.bin is a file"):
        base_models.resolve(str(tmp_path / "me.bin"), tmp_path)


def test_a_folder_works_as_a_base(nano: Path, tmp_path: Path) -> None:
    assert base_models.resolve(str(nano), tmp_path) == nano.resolve()


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="'bert'"):
        base_models.resolve(str(tmp_path), tmp_path)


@pytest.mark.parametrize("missing", ["tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_folder_with_a_file_missing_says_which(nano: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(nano, folder)
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        base_models.resolve(str(folder), tmp_path)


@pytest.mark.torch
def test_fetch_downloads_and_then_it_is_cached(
    hub: Hub, tmp_path: Path, nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _fetch(hub, "me/whisper", tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = base_models.resolve("me/whisper", tmp_path)
    assert str(folder) in done.stdout
    assert (folder / "model.safetensors").read_bytes() == (nano / "model.safetensors").read_bytes()
    assert "23.2/23.2 MB" in done.stderr


@pytest.mark.torch
def test_fetch_goes_on_where_it_broke(hub: Hub, tmp_path: Path, nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.break_once = True
    while _fetch(hub, "me/whisper", tmp_path).returncode:  # its own retries may be enough
        assert not hub.break_once
    first_bytes = [int(wanted.removeprefix("bytes=").split("-")[0]) for wanted in hub.ranges]
    assert 0 < first_bytes[0] <= BREAKS_AT
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = base_models.resolve("me/whisper", tmp_path)
    assert (folder / "model.safetensors").read_bytes() == (nano / "model.safetensors").read_bytes()


@pytest.mark.torch
def test_fetch_of_an_unknown_model_says_so(hub: Hub, tmp_path: Path) -> None:
    done = _fetch(hub, "me/nothing", tmp_path)
    assert done.returncode == 4
    assert "could not download me/nothing" in done.stderr
    assert "Traceback" not in done.stderr
