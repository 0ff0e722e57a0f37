"""Backups of real homes, put back into empty ones."""

from __future__ import annotations

import tarfile
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from daemon import backup
from daemon.config import example
from daemon.intake.library import Library
from daemon.paths import Paths
from daemon.sync.releases import ReleaseStore
from idiolect.errors import AlreadyRunning, StoreError, UsageError
from tests.daemon.homes import CONFIG, living, record, states, until
from tests.daemon.test_run import daemon

pytestmark = pytest.mark.slow


@pytest.fixture
async def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A home with a published release and settings of its own, its daemon gone."""
    monkeypatch.setattr("daemon.run.REST_S", 0.05)
    paths = Paths.at(tmp_path / "old")
    paths.make()
    paths.config_file.write_text(example(CONFIG))
    paths.vocabulary_file.write_text("mekolet\n")
    (paths.state / "keys").mkdir()
    (paths.state / "keys" / "repo.pem").write_text("secret")
    record(paths, 0, 1)
    async with living(daemon(paths)) as one:
        await until(lambda: states(one) == ["published"])
        await _saved_while_it_runs(paths)
    return paths


async def _saved_while_it_runs(paths: Paths) -> None:
    import asyncio

    await asyncio.to_thread(backup.save, paths, paths.state.parent / "running.tar")


def test_what_was_kept_comes_back(paths: Paths, tmp_path: Path) -> None:
    new = Paths.at(tmp_path / "new")
    saved = backup.save(paths, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    assert backup.load(new, tmp_path / "b.tar").files >= saved.files
    assert new.config_file.read_text() == paths.config_file.read_text()
    assert new.vocabulary_file.read_text() == "mekolet\n"
    assert (new.state / "keys" / "repo.pem").read_text() == "secret"
    assert not new.recordings.exists()
    old_store, store = ReleaseStore(paths.store), ReleaseStore(new.store)
    assert store.manifest == old_store.manifest
    assert store.published is not None
    for sha256 in store.published.files:
        blob = store.blob(sha256)
        assert blob is not None
        assert blob.read_bytes()
    for each in (paths, new):
        library = Library(each.library_db)
        assert [run.state for run in library.runs()] == ["published"]
        assert library.counts().ready == 2
        library.close()


async def test_a_restored_home_goes_on_above_every_version_it_gave_out(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Paths.at(tmp_path / "new")
    backup.load(new, paths.state.parent / "running.tar")
    before = ReleaseStore(new.store).version
    record(new, 0, 1, 2, 3)
    async with living(daemon(new)) as one:
        await until(lambda: states(one)[0] == "published" and len(states(one)) > 1)
    assert ReleaseStore(new.store).version > before + backup.VERSIONS_SKIPPED


def test_nothing_is_replaced_unasked(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    backup.save(paths, file)
    with pytest.raises(UsageError, match="exists already"):
        backup.save(paths, file)
    backup.save(paths, file, force=True)
    with pytest.raises(UsageError, match="exists already"):
        backup.load(paths, file)
    new = Paths.at(tmp_path / "new")
    new.make()
    new.vocabulary_file.write_text("another word\n")
    with pytest.raises(UsageError, match=r"vocabulary.txt exists already, and the backup holds another"):
        backup.load(new, file)
    assert new.vocabulary_file.read_text() == "another word\n"
    assert not new.library_db.exists()
    with new.locked(), pytest.raises(AlreadyRunning):
        backup.load(new, file)


def test_a_place_that_cannot_be_written(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        backup.save(paths, tmp_path / "nowhere" / "b.tar")
    with pytest.raises(UsageError, match="there is nothing to keep"):
        backup.save(Paths.at(tmp_path / "none"), tmp_path / "b.tar")


def _tar(file: Path, **members: bytes) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, content in {backup.LABEL: b'{"format": 1}', **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return file


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"../evil": b""}, "which no backup does"),
        ({"state/../../evil": b""}, "damaged"),
        ({"/etc/evil": b""}, "which no backup does"),
        ({backup.LABEL: b'{"format": 9}'}, "is no backup of this idiolect"),
        ({backup.LABEL: b"{"}, "damaged"),
        ({"state/library.sqlite3": b"not a database, but long enough to be looked at" * 100}, "cannot be used"),
    ],
)
def test_a_foreign_file_changes_nothing(tmp_path: Path, members: dict[str, bytes], said: str) -> None:
    new = Paths.at(tmp_path / "new")
    with pytest.raises(UsageError, match=said):
        backup.load(new, _tar(tmp_path / "x.tar", **members))
    assert not new.library_db.exists()
    assert not list(tmp_path.rglob("evil"))
    assert not list(new.state.glob(".restore-*"))


def test_a_damaged_release_is_refused(paths: Paths, tmp_path: Path) -> None:
    blob = next(paths.store.glob("blobs/sha256/*/*"))
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")
    backup.save(paths, tmp_path / "b.tar")
    new = Paths.at(tmp_path / "new")
    with pytest.raises(StoreError, match="damaged"):
        backup.load(new, tmp_path / "b.tar")
    assert not (new.store / "current").exists()


def test_no_file_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        backup.load(Paths.at(tmp_path / "new"), tmp_path / "none.tar")


def test_settings_on_another_disk_come_back(paths: Paths, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system to write to")
    backup.save(paths, tmp_path / "b.tar")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        config = Paths.at(Path(folder))
        new = replace(
            Paths.at(tmp_path / "new"), config_file=config.config_file, vocabulary_file=config.vocabulary_file
        )
        backup.load(new, tmp_path / "b.tar")
        assert new.config_file.read_text() == paths.config_file.read_text()
        assert new.vocabulary_file.read_text() == "mekolet\n"
        assert not list(Path(folder).glob(".*"))
