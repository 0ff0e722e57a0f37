"""The folder models are pulled into: whose it is, and that nothing in it is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import pytest

import device_profiles
from daemon.sync.releases import ReleaseStore
from exporters import export
from idiolect import client as client_module
from idiolect.client import Client
from idiolect.errors import SyncError, TransferFailed, UsageError
from tests.daemon.sync.publishing import artifact, of
from tests.idiolect.pulls import SIZE, everything, hidden

pytestmark = pytest.mark.usefixtures("impatient")


def test_a_folder_of_the_user_is_left_alone(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    client = Client(into, "android-futo", url=url)
    elsewhere = into.parent / "elsewhere"
    elsewhere.mkdir(parents=True)
    (elsewhere / "my.bin").write_bytes(b"mine")

    def refused() -> None:
        before = everything(into.parent)
        with pytest.raises(UsageError, match="was not put there by idiolect"):
            client.pull()
        assert everything(into.parent) == before

    into.symlink_to(elsewhere)
    refused()
    into.unlink()
    elsewhere.rename(into)
    refused()
    into.rename(elsewhere)
    into.write_text("a file")
    refused()
    into.unlink()
    into.mkdir()  # an empty folder is taken
    assert client.pull().changed
    assert into.is_symlink()


def test_files_the_user_put_beside_the_model_survive(url: str, publish: Callable[..., bytes], into: Path) -> None:
    client = Client(into, "android-futo", url=url)
    publish(1)
    client.pull()
    (into / "notes.txt").write_text("mine")
    place = into.resolve()
    for seed in (2, 3, 4):
        publish(seed)
        client.pull()
    assert (place / "notes.txt").read_text() == "mine"


def test_where_there_are_no_symbolic_links(
    url: str, publish: Callable[..., bytes], into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("symbolic link privilege not held")

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", refuse)
        client = Client(into, "android-futo", url=url)
        first = publish(1)
        (path,) = client.pull().files
        assert into.is_dir()
        assert not into.is_symlink()
        second = publish(2)
        pulled = client.pull()
        assert path.read_bytes() == second
        assert pulled.previous is not None
        assert (pulled.previous / path.name).read_bytes() == first
        assert not client.pull().changed
        publish(3)
        client.pull()
        assert not pulled.previous.exists()
        (into / "notes.txt").write_text("mine")
        publish(4)
        with pytest.raises(UsageError, match="holds files of yours"):
            client.pull()
        (into / "notes.txt").unlink()
        assert client.pull().changed
    publish(5)
    assert client.pull().changed
    assert into.is_symlink()


@pytest.mark.parametrize("links", [True, False], ids=["links", "folders"])
def test_a_swap_that_fails_leaves_the_old_model(
    url: str, publish: Callable[..., bytes], into: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "symlink", lambda *_, **__: (_ for _ in ()).throw(OSError("no links here")))
    first = publish(1)
    client = Client(into, "android-futo", url=url)
    (path,) = client.pull().files
    publish(2)
    rename, replace = Path.rename, Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == into and self.name.startswith(("r-0002-", ".current.")):
            raise OSError(5, "Input/output error")
        return (rename if self.is_dir() else replace)(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(SyncError, match=r"cannot put the new model into .*: Input/output error"):
            client.pull()
    assert path.read_bytes() == first
    assert not list(into.parent.glob("*.link"))
    assert client.pull().release_id == "r-0002"


def test_one_pull_at_a_time(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    client = Client(into, "android-futo", url=url)
    client.pull()
    with filelock.FileLock(hidden(into) / "lock"), pytest.raises(SyncError, match="another pull into"):
        client.pull()


def test_a_damaged_state_is_said(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    client = Client(into, "android-futo", url=url)
    client.pull()
    (hidden(into) / "state.json").write_text("{")
    with pytest.raises(SyncError, match=r"state\.json is damaged"):
        client.pull()


def test_a_disk_without_room(
    url: str, publish: Callable[..., bytes], into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(1)
    monkeypatch.setattr(client_module, "free_bytes", lambda _: 1000)
    with pytest.raises(TransferFailed, match=f"needs {SIZE} bytes and the disk has 1000 free"):
        Client(into, "android-futo", url=url).pull()


def test_a_folder_that_cannot_be_made(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make"):
        Client(tmp_path / "file" / "current", "android-futo", url=url).pull()


@pytest.mark.slow
def test_a_pulled_folder_opens_in_its_runtime(nano: Path, url: str, store: ReleaseStore, into: Path) -> None:
    """All the way from a checkpoint to faster-whisper, which is given what the client put there."""
    faster_whisper = pytest.importorskip("faster_whisper", reason="needs the [ct2] extra")
    profile = device_profiles.load(overrides={"desktop-faster-whisper": {"tier": "nano"}})["desktop-faster-whisper"]
    done = export(nano, profile, into.parent / "job")
    files = {file.path: (done.folder / file.path).read_bytes() for file in done.files}
    made = artifact(into.parent / "published", files, profile.name)
    store.publish(of((made, into.parent / "published"), tier="nano"))
    pulled = Client(into, profile.name, url=url).pull()
    assert sorted(pulled.files) == sorted(into / path for path in files)
    model = faster_whisper.WhisperModel(str(into / done.name), device="cpu", cpu_threads=1, local_files_only=True)
    assert model.hf_tokenizer.token_to_id("<|transcribe|>") == 50_359
    segments, _ = model.transcribe(np.zeros(16_000, np.float32), language="en", beam_size=1, temperature=0.0)
    assert all(isinstance(segment.text, str) for segment in segments)
