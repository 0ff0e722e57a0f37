"""The models that this computer itself uses: kept by a living daemon, swapped under a reader, with a hook."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from daemon import desktop
from daemon.paths import Paths
from daemon.run import Daemon
from daemon.sync.household import THIS_COMPUTER
from daemon.sync.releases import ReleaseStore
from idiolect.errors import NotPaired
from tests.daemon.homes import CONFIG, changed, living, until
from tests.daemon.sync.publishing import artifact, candidate, model_bytes, of

PROFILES = ("desktop-whispercpp", "desktop-faster-whisper")
HOOK = 'echo "$IDIOLECT_RELEASE $IDIOLECT_FILE" >> "$OUT"'


def publish(store: ReleaseStore, folder: Path, seed: int, channel: str = "stable") -> None:
    """A release as the gate lets it through: a file for whisper.cpp and a folder for faster-whisper."""
    file = artifact(folder / f"{seed}", {"small.bin": model_bytes(seed)}, PROFILES[0])
    ct2 = {f"small-ct2/{name}": model_bytes(seed + i, 300) for i, name in enumerate(("model.bin", "config.json"), 1)}
    store.publish(
        of(*((each, folder / f"{seed}") for each in (file, artifact(folder / f"{seed}", ct2, PROFILES[1])))), channel
    )


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.at(tmp_path / "home")


def has_version(store: ReleaseStore, version: int) -> bool:
    return store.version == version


def store_of(daemon: Daemon) -> ReleaseStore:
    return daemon._rooms.store


@pytest.mark.slow
async def test_the_newest_is_always_there(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two profiles, a reader that opens the file again and again, a step back, and a hook after each."""
    out, current = tmp_path / "out", paths.models / "current"
    monkeypatch.setenv("OUT", str(out))
    settings = {"profiles": (PROFILES[0], "android-futo", PROFILES[1]), "hook": ("sh", "-c", HOOK)}
    model, read, ended = current / PROFILES[0] / "small.bin", set[bytes](), threading.Event()

    def reader() -> None:
        while not ended.is_set():
            read.add(model.read_bytes())

    async with living(Daemon(paths, changed(CONFIG, desktop=settings))) as daemon:
        for seed in (1, 5):
            await asyncio.to_thread(publish, store_of(daemon), tmp_path / "made", seed)
        await daemon._tell_devices()
        await until(lambda: out.exists() and out.read_text().count("r-0002") == 2)
        assert out.read_text().startswith(f"r-0002 {model}\n")
        assert (current / PROFILES[1] / "small-ct2" / "model.bin").read_bytes() == model_bytes(6, 300)
        assert not (current / "android-futo").exists()  # nothing is published for it
        reading = threading.Thread(target=reader)
        reading.start()
        await daemon._command("rollback", {"tier": "tiny"})
        await until(lambda: out.read_text().count("r-0001") == 2)
        ended.set()
        reading.join()
        assert daemon.status()["warnings"] == daemon._rooms.warnings()
        holds = {each["profile"]: each for each in daemon._rooms.devices.describe()[0]["holds"]}
        assert (holds[PROFILES[0]]["release"], holds[PROFILES[0]]["loaded"]) == ("r-0001", True)
    assert read == {model_bytes(1), model_bytes(5)}


@pytest.mark.slow
async def test_as_the_canary_its_hook_decides(paths: Paths, tmp_path: Path) -> None:
    hook = ("sh", "-c", '[ "$IDIOLECT_RELEASE" != r-0002 ]')
    config = changed(CONFIG, desktop={"hook": hook}, publish={"canary": THIS_COMPUTER})
    async with living(Daemon(paths, config)) as daemon:
        store = store_of(daemon)
        for seed, withdrawn in ((1, []), (5, ["r-0002"])):
            before = store.version
            await asyncio.to_thread(publish, store, tmp_path / "made", seed, "beta")
            await daemon._tell_devices()
            await until(functools.partial(has_version, store, before + 2))
            assert store.manifest is not None
            assert store.manifest.channels == {"tiny": {"beta": "r-0001", "stable": "r-0001"}}
            assert store.manifest.withdrawn == withdrawn


@pytest.mark.slow
async def test_trouble_is_told_and_mended(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desktop, "RETRY_S", 0.2)
    current = paths.models / "current"
    current.parent.mkdir(parents=True)
    current.symlink_to(tmp_path)  # what `idiolect pull --into models/current` leaves
    async with living(Daemon(paths, CONFIG)) as daemon:
        await asyncio.to_thread(publish, store_of(daemon), tmp_path / "made", 1)
        await daemon._tell_devices()
        await until(lambda: any("is a link" in warning for warning in daemon.status()["warnings"]))
        assert {path.name for path in tmp_path.iterdir()} == {"home", "made"}
        current.unlink()
        await until(lambda: (current / PROFILES[0] / "small.bin").exists())
        await until(lambda: not any("models/current" in warning for warning in daemon.status()["warnings"]))


def test_what_is_asked_of_the_child(paths: Paths, tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "store")
    assert desktop.errand(paths, CONFIG, store.repo, None)["profiles"] == []
    store.publish(candidate(tmp_path / "made", 1))  # for android-futo only
    assert desktop.errand(paths, CONFIG, store.repo, store.manifest)["profiles"] == []
    publish(store, tmp_path / "made", 2, "beta")
    for settings, canary, channel, profiles in (
        ({}, "", "stable", []),
        ({}, THIS_COMPUTER, "stable", []),  # nothing could tell whether it works
        ({"hook": ("true",)}, "phone", "stable", []),
        ({"hook": ("true",)}, THIS_COMPUTER, "beta", list(PROFILES)),
    ):
        config = changed(CONFIG, desktop=settings, publish={"canary": canary})
        asked: dict[str, Any] = json.loads(json.dumps(desktop.errand(paths, config, store.repo, store.manifest)))
        assert (asked["channel"], asked["profiles"]) == (channel, profiles)


def test_not_without_a_pairing(paths: Paths) -> None:
    with pytest.raises(NotPaired):
        desktop.pull(desktop.errand(paths, CONFIG, "a" * 12, None))
