from __future__ import annotations

import shutil
import stat
from functools import partial
from pathlib import Path

import pytest

from daemon.sync.identity import Identity
from daemon.sync.keys import Keys
from daemon.sync.releases import ReleaseStore
from idiolect import signing, wire
from idiolect.errors import StoreError, VerificationFailed
from idiolect.trust import Trust
from tests.daemon.sync.publishing import candidate
from tests.idiolect.steps import killed_at_step

REPO = "k7f3q2mzx5ab"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def followed(keys: Keys, root_key: str, root_version: int) -> Trust:
    """What a device of this root key believes of a manifest that these keys sign."""
    now = wire.utc_now()
    manifest = wire.Manifest(
        repo=REPO, version=1, issued=now, expires=now.replace(year=now.year + 1, day=1), root_version=root_version
    )

    def root(version: int) -> bytes:
        found = keys.root(version)
        assert found is not None
        return found

    return Trust(root_key=root_key).take(keys.sign(wire.dump(manifest)), REPO, now, root)[0]


def test_made_once_and_private(folder: Path) -> None:
    keys = Keys(folder, REPO)
    again = Keys(folder, REPO)
    assert (keys.root_key, keys.release_key) == (again.root_key, again.release_key)
    assert keys.root_key != keys.release_key
    assert {path.name for path in folder.iterdir()} == {"root.key", "release.key", "roots"}
    keys.rotate(root_too=True)
    for name in ("root.key", "release.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert keys.root(3) is None


def test_rotation_is_followed(folder: Path) -> None:
    keys = Keys(folder, REPO)
    told = keys.root_key
    for version, root_too in ((2, False), (3, True), (4, False), (5, True)):
        before = (keys.root_key, keys.release_key)
        keys.rotate(root_too=root_too)
        assert keys.root_version == version
        assert (keys.root_key == before[0], keys.release_key == before[1]) == (not root_too, False)
        assert followed(keys, told, version).release_key == keys.release_key
        assert followed(Keys(folder, REPO), keys.root_key, version).root_key == keys.root_key
    with pytest.raises(VerificationFailed):
        followed(keys, told, 4)


def test_the_root_key_lies_elsewhere(folder: Path, tmp_path: Path) -> None:
    keys = Keys(folder, REPO)
    (folder / "root.key").rename(tmp_path / "root.key")
    again = Keys(folder, REPO)
    assert followed(again, keys.root_key, 1).root_version == 1
    with pytest.raises(StoreError, match=r"root\.key cannot be read"):
        again.rotate()
    assert again.root_version == 1
    (tmp_path / "root.key").rename(folder / "root.key")
    again.rotate()
    assert followed(again, keys.root_key, 2).root_version == 2


@pytest.mark.parametrize("damage", ["missing", "another", "not a key", "another kind"])
def test_a_release_key_that_is_not_the_right_one(folder: Path, tmp_path: Path, damage: str) -> None:
    told = Keys(folder, REPO).root_key
    path = folder / "release.key"
    path.unlink()
    if damage == "another":
        Keys(tmp_path / "other", REPO)
        shutil.copy(tmp_path / "other" / "release.key", path)
    if damage == "not a key":
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    if damage == "another kind":
        Identity(tmp_path / "tls")
        shutil.copy(tmp_path / "tls" / "tls-key.pem", path)
    keys = Keys(folder, REPO)  # what was signed is still told
    assert keys.root(1)
    with pytest.raises(StoreError, match=r"release\.key") as caught:
        keys.sign(b"{}")
    assert "backup" in caught.value.hint
    keys.rotate()
    assert followed(keys, told, 2).root_version == 2


def test_another_root_key_signs_nothing(folder: Path, tmp_path: Path) -> None:
    keys = Keys(folder, REPO)
    Keys(tmp_path / "other", REPO)
    shutil.copy(tmp_path / "other" / "root.key", folder / "root.key")
    with pytest.raises(StoreError, match="not the root key that devices know"):
        keys.rotate()
    assert keys.root_version == 1


def test_a_damaged_root(folder: Path) -> None:
    Keys(folder, REPO)
    (folder / "roots" / "1.dsse").write_bytes(b"{}")
    with pytest.raises(StoreError, match=r"1\.dsse is damaged"):
        Keys(folder, REPO)


@pytest.mark.slow
def test_killed_at_any_step_of_being_made(tmp_path: Path) -> None:
    n, killed = 0, True
    while killed:
        folder = tmp_path / f"keys-{n}"
        killed = killed_at_step(n, folder, partial(Keys, folder, REPO))
        keys = Keys(folder, REPO)
        assert followed(keys, keys.root_key, 1).root_version == 1
        n += 1
    assert n > 8


@pytest.mark.slow
@pytest.mark.parametrize("root_too", [False, True])
def test_killed_at_any_step_of_a_rotation(tmp_path: Path, root_too: bool) -> None:
    """The old keys or the new ones count, devices follow, and the next rotation is not confused by what is left."""
    old, new, killed = 0, 0, True
    while killed:
        folder = tmp_path / f"keys-{old + new}"
        keys = Keys(folder, REPO)
        killed = killed_at_step(old + new, folder, partial(keys.rotate, root_too=root_too))
        again = Keys(folder, REPO)
        old += again.root_version == 1
        new += again.root_version == 2
        assert followed(again, keys.root_key, again.root_version).release_key == again.release_key
        again.rotate()  # of the release key alone
        again.rotate(root_too=True)
        assert followed(again, keys.root_key, again.root_version).root_key == again.root_key
        assert {path.name for path in folder.glob("*.key")} == {"root.key", "release.key"}
    assert old > 3
    assert new > 1


def test_a_store_is_signed_anew(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "store")
    store.rotate()
    assert store.manifest is None
    store.publish(candidate(tmp_path))
    store.rotate(root_too=True)
    assert store.manifest is not None
    assert (store.version, store.manifest.root_version) == (2, 3)
    assert store.published is not None
    signing.verify(store.published.envelope, signing.MANIFEST_TYPE, store.keys.release_key)
    # A crash between the keys and the manifest: the next who asks gets one that the new keys have signed.
    Keys(tmp_path / "store" / "keys", store.repo).rotate(root_too=True)
    again = ReleaseStore(tmp_path / "store")
    assert again.renew()
    assert not again.renew()
    assert again.manifest is not None
    assert again.manifest.root_version == 4
