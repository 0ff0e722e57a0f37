from __future__ import annotations

import dataclasses
import resource
import stat
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from daemon.sync import releases
from daemon.sync.releases import Candidate, ReleaseStore
from idiolect import signing, wire
from idiolect.errors import StoreError
from idiolect.files import sha256_file
from idiolect.wire import Manifest
from tests.daemon.sync.publishing import artifact, candidate, model_bytes, of
from tests.idiolect.steps import acting_at_step, killed_at_step


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "store")


def blobs(store_root: Path) -> set[str]:
    return {path.name for path in (store_root / "blobs").rglob("*") if path.is_file()}


def named_by_manifests(store_root: Path) -> set[str]:
    manifests = [
        Manifest.model_validate_json(signing.payload_of(path.read_bytes(), signing.MANIFEST_TYPE))
        for path in (store_root / "manifests").iterdir()
    ]
    return {
        file.sha256
        for manifest in manifests
        for release in manifest.releases
        for listed in release.artifacts
        for file in listed.files
    }


def test_an_empty_store_writes_nothing(tmp_path: Path, store: ReleaseStore) -> None:
    assert store.published is None
    assert store.manifest is None
    assert store.version == 0
    assert store.blob("ab" * 32) is None
    assert not store.renew()
    assert not (tmp_path / "store").exists()


def test_repo_is_made_once_and_private(tmp_path: Path, store: ReleaseStore) -> None:
    assert wire.is_repo_id(store.repo)
    assert ReleaseStore(tmp_path / "store").repo == store.repo
    assert stat.S_IMODE((tmp_path / "store" / "repo_id").stat().st_mode) == 0o600
    assert ReleaseStore(tmp_path / "other").repo != store.repo


def test_publish(tmp_path: Path, store: ReleaseStore) -> None:
    release = store.publish(candidate(tmp_path, 1, 2))
    assert (release.id, release.parent) == ("r-0001", None)
    assert store.manifest is not None
    assert store.manifest.version == 1
    assert store.manifest.repo == store.repo
    assert store.manifest.channels == {"tiny": {"stable": "r-0001"}}
    assert store.manifest.expires - store.manifest.issued == timedelta(days=30)
    for listed in release.artifacts:
        blob = store.blob(listed.files[0].sha256)
        assert blob is not None
        assert sha256_file(blob) == blob.name == listed.files[0].sha256
        assert stat.S_IMODE(blob.stat().st_mode) == 0o444
        assert blob.parent.name == blob.name[:2]
    assert store.blob("../../repo_id") is None
    assert not (tmp_path / "store" / "tmp").exists()


def test_the_payload_is_the_manifest_of_the_design(tmp_path: Path, store: ReleaseStore) -> None:
    store.publish(candidate(tmp_path))
    assert store.published is not None
    assert store.published.etag == '"mv-1"'
    payload = signing.verify(store.published.envelope, signing.MANIFEST_TYPE, store.keys.release_key)
    assert payload.startswith(b'{"format":"idiolect-manifest/1","repo":"')
    assert store.manifest is not None
    assert Manifest.model_validate_json(payload).model_dump() == store.manifest.model_dump(exclude={"pins"})
    assert b'"issued":"' in payload
    assert b"null" not in payload


def test_the_version_rises_and_the_parent_is_the_tiers(tmp_path: Path, store: ReleaseStore) -> None:
    store.publish(candidate(tmp_path, 1))
    store.publish(candidate(tmp_path, 2, tier="small"))
    third = store.publish(candidate(tmp_path, 3))
    assert (third.id, third.parent) == ("r-0003", "r-0001")
    assert store.manifest is not None
    assert store.manifest.version == 3
    assert store.manifest.channels == {"tiny": {"stable": "r-0003"}, "small": {"stable": "r-0002"}}
    found = store.manifest.current("android-futo")
    assert found is not None
    assert found[0].id == "r-0003"


def test_another_process_sees_the_same(tmp_path: Path, store: ReleaseStore) -> None:
    store.publish(candidate(tmp_path))
    again = ReleaseStore(tmp_path / "store")
    assert again.published == store.published
    assert again.publish(candidate(tmp_path, 2)).id == "r-0002"


def test_a_version_is_never_used_twice(tmp_path: Path, store: ReleaseStore) -> None:
    store.publish(candidate(tmp_path))
    (tmp_path / "store" / "manifests" / "7.dsse").write_text("left by a crash before `current`")
    store.publish(candidate(tmp_path, 2))
    assert store.version == 8


def test_five_releases_a_tier_are_listed_and_the_rest_collected(tmp_path: Path, store: ReleaseStore) -> None:
    store.publish(candidate(tmp_path, 100, tier="small"))
    digests = []
    for seed in range(12):
        digests.append(store.publish(candidate(tmp_path, seed)).artifacts[0].files[0].sha256)
    assert store.manifest is not None
    listed = [release.id for release in store.manifest.releases]
    assert listed == ["r-0013", "r-0012", "r-0011", "r-0010", "r-0009", "r-0001"]
    assert store.blob(digests[0]) is None
    assert store.blob(digests[-1]) is not None
    # Five manifests are kept, and with them what the oldest of them lists.
    assert blobs(tmp_path / "store") >= set(digests[3:])
    assert not blobs(tmp_path / "store") & set(digests[:3])
    assert len(list((tmp_path / "store" / "manifests").iterdir())) == 5


def test_a_manifest_that_grows_too_large_lists_fewer_releases(
    tmp_path: Path, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(candidate(tmp_path, 1))
    assert store.manifest is not None
    monkeypatch.setattr(releases, "MAX_PAYLOAD_BYTES", int(len(wire.dump(store.manifest)) * 2.2))
    for seed in (2, 3, 4):
        store.publish(candidate(tmp_path, seed))
    assert store.manifest is not None
    assert [release.id for release in store.manifest.releases] == ["r-0004", "r-0003"]
    monkeypatch.setattr(releases, "MAX_PAYLOAD_BYTES", 100)
    with pytest.raises(StoreError, match="more than 262144 bytes, which no device reads"):
        store.publish(candidate(tmp_path, 5))
    assert store.version == 4


def test_renewed_after_a_week(tmp_path: Path, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(candidate(tmp_path))
    assert not store.renew()
    later = wire.utc_now() + timedelta(days=8)
    monkeypatch.setattr(wire, "utc_now", lambda: later)
    old = store.manifest
    assert store.renew()
    assert old is not None
    assert store.manifest is not None
    assert store.manifest.version == 2
    assert store.manifest.releases == old.releases
    assert store.manifest.expires == later + timedelta(days=30)
    assert not store.renew()


def test_what_is_not_as_promised_is_refused(tmp_path: Path, store: ReleaseStore) -> None:
    store.publish(candidate(tmp_path, 1))
    before, files = store.published, blobs(tmp_path / "store")
    good = artifact(tmp_path / "a", {"m.bin": model_bytes(2)})
    file = good.files[0]

    def changed(**update: object) -> wire.Artifact:
        size_bytes = update.get("size_bytes", good.size_bytes)
        return good.model_copy(update={"files": [file.model_copy(update=update)], "size_bytes": size_bytes})

    refused = {
        "SHA-256": of((changed(sha256="0" * 64), tmp_path / "a")),
        "size 5000, expected 4999": of((changed(size_bytes=4999), tmp_path / "a")),
        "magic 6c6d6767, expected 46554747": of((changed(magic="46554747"), tmp_path / "a")),
        "No such file": of((good, tmp_path / "elsewhere")),
        "one artifact or more": of(),
        "another profile": of((good, tmp_path / "a"), (good, tmp_path / "a")),
        "not the sum": of((good.model_copy(update={"size_bytes": 1}), tmp_path / "a")),
        "cannot become a release": dataclasses.replace(of((good, tmp_path / "a")), tier="../up"),
    }
    for message, bad in refused.items():
        with pytest.raises(StoreError, match=message):
            store.publish(bad)
        assert store.published == before
        assert blobs(tmp_path / "store") == files
    assert ReleaseStore(tmp_path / "store").published == before


def test_a_damaged_store_says_what_to_do(tmp_path: Path, store: ReleaseStore) -> None:
    store.publish(candidate(tmp_path))
    pointer = tmp_path / "store" / "current"
    for text in ("", "x", "2", "-1"):
        pointer.write_text(text)
        with pytest.raises(StoreError, match="damaged") as caught:
            ReleaseStore(tmp_path / "store")
        assert str(pointer) in caught.value.hint
    pointer.write_text("1")
    assert ReleaseStore(tmp_path / "store").version == 1


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, store: ReleaseStore) -> None:
    """The kernel refuses every file beyond 64 KiB: a real failed write in the middle of a blob."""
    store.publish(candidate(tmp_path, 1))
    before, files = store.published, blobs(tmp_path / "store")
    large = candidate(tmp_path, 2, size_bytes=200_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
    try:
        with pytest.raises(StoreError, match="cannot publish: File too large"):
            store.publish(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ReleaseStore(tmp_path / "store").published == store.published == before
    assert blobs(tmp_path / "store") == files
    assert store.publish(large).id == "r-0002"


def test_too_little_room_is_seen_before_copying(
    tmp_path: Path, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "free_bytes", lambda _: 100_000)
    with pytest.raises(StoreError, match="only 100000 free"):
        store.publish(candidate(tmp_path))
    assert store.manifest is None


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_an_exception_at_any_step_leaves_the_old_state(tmp_path: Path, first: bool) -> None:
    def publish(fail_at: int, root: Path) -> bool:
        store = ReleaseStore(root)
        if not first:
            store.publish(candidate(tmp_path, 1))
        before = store.published
        refused = False
        try:
            with acting_at_step(fail_at, root, _raise):
                store.publish(candidate(tmp_path, 2, 3))
        except StoreError:
            refused = True
            assert store.published == before
        assert store.published == ReleaseStore(root).published
        assert store.publish(candidate(tmp_path, 4)).number == 3 - first - refused
        assert store.published == ReleaseStore(root).published
        assert not list(root.rglob("*.tmp"))
        return refused

    refusals = [publish(n, tmp_path / f"store-{n}") for n in range(60)]
    assert sum(refusals) > 10
    assert not refusals[-1]


@pytest.mark.slow
def test_killed_at_any_step_the_state_is_the_old_or_the_new(tmp_path: Path) -> None:

    def publish(root: Path, second: Candidate) -> None:
        ReleaseStore(root).publish(second)

    old, new, killed = 0, 0, True
    while killed:
        root = tmp_path / f"store-{old + new}"
        ReleaseStore(root).publish(candidate(tmp_path, 1))
        killed = killed_at_step(old + new, root, partial(publish, root, candidate(tmp_path, 2, 3)))
        store = ReleaseStore(root)
        assert store.manifest is not None
        for release in store.manifest.releases:
            for listed in release.artifacts:
                blob = store.blob(listed.files[0].sha256)
                assert blob is not None
                assert sha256_file(blob) == blob.name
        old += store.version == 1
        new += store.version == 2
        store.publish(candidate(tmp_path, 4))
        assert not list(root.rglob("*.tmp"))
        assert blobs(root) <= named_by_manifests(root)
    assert old > 10
    assert new > 2  # killed after the rename that counts, while tidying up, and not at all


def _raise() -> None:
    raise InterruptedError("injected")
