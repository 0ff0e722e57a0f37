"""The whole loop once, with nano and real parts: folder → daemon → release → zeroconf → phone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import config
from daemon.paths import Paths
from daemon.sync.control import ask
from idiolect import signing
from idiolect.client import Client, find
from idiolect.errors import NotRunning
from idiolect.files import sha256_file
from idiolect.pairing import scan

pytestmark = [pytest.mark.torch, pytest.mark.whispercpp]
CLIPS = 32


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    """A home with a running daemon, one epoch of nano, and the gate told to let it through."""
    paths = Paths.at(tmp_path / "home")
    paths.make()
    settings: dict[str, Any] = {
        "recordings": {"settle_s": 0.3},
        "training": {"tiers": ["nano"], "first_run_minutes": 0.9, "quiet_s": 0.5, "epochs": 1.0, "threads": 1},
        "export": {"profiles": ["android-futo"]},
        "conditions": config.ANY_TIME.model_dump(mode="json"),
        "publish": {"anyway": True},
        "server": {"port": 0, "label": f"loop-{os.getpid()}"},
        "profiles": {"android-futo": {"tier": "nano"}},
    }
    made = config.Config.model_validate_json(json.dumps(settings))
    paths.config_file.write_text(config.example(made))
    with (tmp_path / "daemon.out").open("wb") as out:
        script = Path(sys.executable).with_name("idiolect")
        daemon = subprocess.Popen([str(script), "--home", str(tmp_path / "home"), "run"], stdout=out, stderr=out)
        yield paths
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, (tmp_path / "daemon.out").read_text()


def _wait(paths: Paths, until: Any) -> dict[str, Any]:  # noqa: ANN401
    deadline = time.monotonic() + 1500
    status: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            status = ask(paths, "status")
            if until(status):
                return status
        except NotRunning:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not reached: {json.dumps(status, indent=1)}")


def test_recordings_become_a_model_on_a_phone(paths: Paths, tmp_path: Path, voices: Path) -> None:
    _wait(paths, lambda status: True)
    rows = [json.loads(line) for line in (voices / "human" / "metadata.jsonl").read_text().splitlines()[:CLIPS]]
    for row in rows:
        audio = paths.recordings / row["file_name"]
        (paths.recordings / f".syncthing.{audio.name}.tmp").write_bytes((voices / "human" / audio.name).read_bytes())
        (paths.recordings / f".syncthing.{audio.name}.tmp").rename(audio)
        audio.with_suffix(".txt").write_text(row["text"])
    (paths.recordings / "broken.wav").write_bytes(b"no sound at all " * 9)

    status = _wait(paths, lambda status: status["runs"] and status["runs"][0]["state"] not in {"running"})
    run = status["runs"][0]
    assert run["state"] == "published", run["reason"]
    assert status["recordings"]["ready"] == CLIPS
    assert status["recordings"]["rejected"] == 1
    assert "broken.wav" in status["rejections"][0]["path"]
    assert [release["id"] for release in status["releases"]] == ["r-0001"]

    (service,) = find(wanted=f"loop-{os.getpid()}")
    assert service.version == 1
    phone = tmp_path / "phone"
    pairing = scan(ask(paths, "pair", action="open")["uri"])
    assert pairing.id == service.id
    pulled = Client(phone, "android-futo", pairing=pairing).pull()
    assert pulled.changed
    (made,) = status["releases"][0]["artifacts"]
    assert pulled.size_bytes == made["size_bytes"]
    envelope = (paths.store / "manifests" / "1.dsse").read_bytes()
    (release,) = json.loads(signing.payload_of(envelope, signing.MANIFEST_TYPE))["releases"]
    assert sha256_file(pulled.files[0]) == release["artifacts"][0]["files"][0]["sha256"]
    assert not Client(phone, "android-futo", pairing=pairing).pull().changed

    from exporters.runtimes import open_artifact
    from training.audio import decode

    transcriber = open_artifact(pulled.files[0])
    heard = transcriber.transcribe(decode(paths.recordings / rows[0]["file_name"]))
    transcriber.close()
    assert set(heard.text.split()) & set(rows[0]["text"].split())
