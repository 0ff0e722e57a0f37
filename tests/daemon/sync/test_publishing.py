from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.sync.devices import READ, Device, Devices
from daemon.sync.pins import Kept
from daemon.sync.publishing import act, describe, judge, untried
from daemon.sync.releases import ReleaseStore
from idiolect import signing
from idiolect.errors import UsageError
from idiolect.wire import Manifest, Report
from tests.daemon.sync.doors import Ask, House, problem
from tests.daemon.sync.publishing import candidate


def digest(store: ReleaseStore, release_id: str) -> str:
    assert store.manifest is not None
    release = store.manifest.release(release_id)
    assert release is not None
    return release.artifacts[0].files[0].sha256


def offered(store: ReleaseStore) -> str:
    assert store.manifest is not None
    found = store.manifest.current("android-futo")
    return found[0].id if found else ""


def offered_of(store: ReleaseStore, tier: str) -> str:
    assert store.manifest is not None
    return store.manifest.channels[tier]["stable"]


@pytest.fixture
def devices(home: House) -> Devices:
    return home.devices


@pytest.fixture
def three(store: ReleaseStore, tmp_path: Path) -> ReleaseStore:
    for seed in (1, 2, 3):
        store.publish(candidate(tmp_path, seed))
    return store


def test_nothing_to_act_on(store: ReleaseStore, devices: Devices) -> None:
    assert act(store, devices, "releases", {}) == {"version": 0, "root_version": 0, "expires": None, "releases": []}
    for command, arguments in (
        ("rollback", {"tier": "tiny"}),
        ("withdraw", {"release": "r-0001"}),
        ("pin", {"device": "phone", "release": "r-0001"}),
        ("unpin", {"device": "phone"}),
    ):
        with pytest.raises(UsageError):
            act(store, devices, command, arguments)
    assert store.version == 0


def test_back_and_forth_the_version_rises(three: ReleaseStore, devices: Devices, tmp_path: Path) -> None:
    for version, wanted, release in ((4, "", "r-0002"), (5, "", "r-0001"), (6, "r-0003", "r-0003")):
        found = act(three, devices, "rollback", {"tier": "tiny", "release": wanted})
        assert (found["version"], offered(three)) == (version, release)
    act(three, devices, "rollback", {"tier": "tiny", "release": "r-0001"})
    with pytest.raises(UsageError, match="tiny has no release before r-0001") as caught:
        three.rollback("tiny")
    assert "r-0003, r-0002" in caught.value.hint
    with pytest.raises(UsageError, match="tiny cannot go back to r-0009"):
        three.rollback("tiny", "r-0009")
    with pytest.raises(UsageError, match="nothing is published for tier 'small'"):
        three.rollback("small")
    assert three.version == 7
    assert ReleaseStore(tmp_path / "store").published == three.published
    fourth = three.publish(candidate(tmp_path, 4))
    assert (fourth.id, fourth.parent, offered(three)) == ("r-0004", "r-0001", "r-0004")


def test_what_is_withdrawn_is_never_offered_again(three: ReleaseStore, devices: Devices, tmp_path: Path) -> None:
    found = act(three, devices, "withdraw", {"release": "r-0002"})
    assert [(each["id"], each["channels"], each["withdrawn"]) for each in found["releases"]] == [
        ("r-0003", ["stable"], False),
        ("r-0002", [], True),
        ("r-0001", [], False),
    ]
    three.withdraw("r-0003")
    assert offered(three) == "r-0001"
    for wanted in ("", "r-0002", "r-0003"):
        with pytest.raises(UsageError):
            three.rollback("tiny", wanted)
    with pytest.raises(UsageError, match="no release that is offered is called 'r-0003'"):
        three.withdraw("r-0003")
    three.withdraw("r-0001")
    assert offered(three) == ""
    assert three.publish(candidate(tmp_path, 4)).id == "r-0004"
    assert offered(three) == "r-0004"
    assert [each["withdrawn"] for each in describe(ReleaseStore(tmp_path / "store"))["releases"]] == [False] + [
        True
    ] * 3


@pytest.mark.slow
def test_a_current_file_is_never_collected(three: ReleaseStore, tmp_path: Path) -> None:
    """Also where many newer releases have come and gone."""
    for seed in range(10, 22):
        three.publish(candidate(tmp_path, seed))
        assert three.manifest is not None
        oldest = three.manifest.releases[-1].id
        three.rollback("tiny", oldest)
        for _ in range(6):
            three.publish(candidate(tmp_path, 99, tier="small"))
        blob = three.blob(digest(three, oldest))
        assert blob is not None
        assert blob.is_file()
        assert offered_of(three, "tiny") == oldest


async def test_its_file_is_gone(three: ReleaseStore, ask: Ask, tmp_path: Path) -> None:
    path = f"/v1/blobs/sha256:{digest(three, 'r-0003')}"
    assert (await ask(path))[0] == 200
    three.withdraw("r-0003")
    answer = await ask(path)
    assert answer[0] == 410
    assert "was withdrawn" in problem(answer)
    assert (await ask(f"/v1/blobs/sha256:{digest(three, 'r-0002')}"))[0] == 200
    three.publish(candidate(tmp_path, 3))  # the same file in another release
    assert (await ask(path))[0] == 200


def told(store: ReleaseStore, device: Device) -> tuple[str, str]:
    """What this device is offered, and the bytes' tag."""
    published = store.published_to(device.id)
    assert published is not None
    content = signing.verify(published.envelope, signing.MANIFEST_TYPE, store.keys.release_key)
    assert b"pins" not in content  # what others are pinned to is not its business
    manifest = Kept.model_validate_json(content)
    assert (manifest.version, manifest) == (store.version, published.manifest)
    found = manifest.current("android-futo", "beta") or manifest.current("android-futo")
    return (found[0].id if found else ""), published.envelope.decode()


def test_a_device_stays_where_it_is_pinned(three: ReleaseStore, devices: Devices, tmp_path: Path) -> None:
    phone, tablet = devices.all()[0], devices.add("tablet", "android", frozenset({READ}))[0]
    found = act(three, devices, "pin", {"device": "phone", "release": "r-0001"})
    assert (found["version"], found["releases"][-1]["pinned"]) == (4, [phone.id])
    for seed in range(10, 20):  # more than are listed
        three.publish(candidate(tmp_path, seed), "beta" if seed % 2 else "stable")
    assert [told(three, each)[0] for each in (phone, tablet)] == ["r-0001", "r-0013"]
    blob = three.blob(digest(three, "r-0001"))
    assert blob is not None
    assert blob.is_file()
    again = ReleaseStore(tmp_path / "store")
    assert [told(again, each) for each in (phone, tablet)] == [told(three, each) for each in (phone, tablet)]
    act(three, devices, "pin", {"device": tablet.id, "release": "r-0012"})
    act(three, devices, "pin", {"device": tablet.id, "release": "r-0011"})
    assert [told(three, each)[0] for each in (phone, tablet)] == ["r-0001", "r-0011"]
    three.withdraw("r-0011")  # safety first
    assert told(three, tablet)[0] == "r-0013"
    version = three.version
    with pytest.raises(UsageError, match="tablet is not pinned"):
        act(three, devices, "unpin", {"device": "tablet"})
    for wrong in ({"device": "phone", "release": "r-0011"}, {"device": "nobody", "release": "r-0001"}):
        with pytest.raises(UsageError):
            act(three, devices, "pin", wrong)
    assert three.version == version
    devices.revoke("phone")
    found = act(three, devices, "unpin", {"device": phone.id})
    assert (found["version"], told(three, phone)[0]) == (version + 1, "r-0013")
    assert three.manifest is not None
    assert three.manifest.pins is None
    three.publish(candidate(tmp_path, 30))
    assert three.manifest.release("r-0001") is None


async def test_each_device_is_told_its_own(three: ReleaseStore, ask: Ask, home: House) -> None:
    _, token = home.devices.add("tablet", "android", frozenset({READ}))
    three.pin(home.devices.all()[0].id, "r-0002")
    for own, release in ((None, "r-0002"), (token, "r-0003")):
        status, headers, body = await ask("/v1/manifest", token=own)
        manifest = Manifest.model_validate_json(signing.payload_of(body, signing.MANIFEST_TYPE))
        assert (status, headers["ETag"], manifest.channels) == (200, '"mv-4"', {"tiny": {"stable": release}})
        status, _, body = await ask("/api/models/idiolect/android-futo", token=own)
        assert (status, release in json.loads(body)["tags"]) == (200, True)


def beta(store: ReleaseStore, folder: Path, seed: int) -> str:
    return store.publish(candidate(folder, seed), "beta").id


def test_a_canary_decides(store: ReleaseStore, tmp_path: Path) -> None:
    store.publish(candidate(tmp_path, 1))
    assert beta(store, tmp_path, 2) == "r-0002"
    said = Report(release="r-0002", profile="android-futo")
    assert offered(store) == "r-0001"
    assert not judge(store, said, {})
    assert not judge(store, Report(release="r-0001", profile="android-futo", loaded=False), {})
    assert judge(store, said.model_copy(update={"loaded": True}), {})
    assert offered(store) == "r-0002"
    assert not judge(
        store, said.model_copy(update={"loaded": False}), {}
    )  # others have it by now: that is the user's to decide
    assert beta(store, tmp_path, 3) == "r-0003"
    assert judge(store, Report(release="r-0003", profile="android-futo", loaded=False), {})
    assert store.manifest is not None
    assert store.manifest.channels == {"tiny": {"stable": "r-0002", "beta": "r-0002"}}
    assert store.manifest.withdrawn == ["r-0003"]


def test_a_canary_that_hears_badly(store: ReleaseStore, tmp_path: Path) -> None:
    """Loaded, and no better than the stock model: an export that is broken on that device only."""
    store.publish(candidate(tmp_path, 1))
    for seed, wer, stable in ((2, 0.3, "r-0001"), (3, 0.12, "r-0003")):
        report = Report(release=beta(store, tmp_path, seed), profile="android-futo", loaded=True, wer=wer)
        assert judge(store, report, {})
        assert offered_of(store, "tiny") == stable


def test_the_first_release_waits_for_the_canary(store: ReleaseStore, tmp_path: Path) -> None:
    assert untried(store.manifest, "phone") == []
    beta(store, tmp_path, 1)
    assert offered(store) == ""
    (said,) = untried(store.manifest, "phone")
    assert said.startswith("r-0001 (tiny) waits for the canary, phone,")
    assert said.endswith("idiolect rollback tiny r-0001")
    assert "names none" in untried(store.manifest, "")[0]
    assert judge(store, Report(release="r-0001", profile="android-futo", loaded=True), {})
    assert offered(store) == "r-0001"
    assert untried(store.manifest, "phone") == []


def test_what_waits_for_a_canary_may_be_given_to_all(store: ReleaseStore, devices: Devices, tmp_path: Path) -> None:
    beta(store, tmp_path, 1)
    act(store, devices, "rollback", {"tier": "tiny", "release": "r-0001"})
    assert offered(store) == "r-0001"
    assert untried(store.manifest, "phone") == []


def channels(store: ReleaseStore) -> dict[str, str]:
    assert store.manifest is not None
    return store.manifest.channels["tiny"]


def test_who_tries_beta_never_stays_behind(store: ReleaseStore, tmp_path: Path) -> None:
    store.publish(candidate(tmp_path, 1))
    beta(store, tmp_path, 2)
    store.publish(candidate(tmp_path, 3))  # as after `canary` was taken out of the settings
    assert channels(store) == {"stable": "r-0003", "beta": "r-0003"}
    beta(store, tmp_path, 4)
    store.rollback("tiny", "r-0001")
    assert channels(store) == {"stable": "r-0001", "beta": "r-0004"}  # that one is still to be tried


def test_a_late_report_does_not_undo_what_the_user_decided(store: ReleaseStore, tmp_path: Path) -> None:
    store.publish(candidate(tmp_path, 1))
    said = Report(release=beta(store, tmp_path, 2), profile="android-futo", loaded=True)
    assert judge(store, said, {})
    store.rollback("tiny")
    assert channels(store) == {"stable": "r-0001", "beta": "r-0001"}
    for loaded in (True, False):
        assert not judge(store, said.model_copy(update={"loaded": loaded}), {})
    assert channels(store) == {"stable": "r-0001", "beta": "r-0001"}


def test_a_canary_with_two_kinds_of_file_tries_both(store: ReleaseStore, tmp_path: Path) -> None:
    store.publish(candidate(tmp_path, 1, 2))
    store.publish(candidate(tmp_path, 3, 4), "beta")
    first, second = (
        Report(release="r-0002", profile=each, loaded=True) for each in ("android-futo", "desktop-whispercpp")
    )
    assert not judge(store, first, {first.profile: "r-0002", second.profile: "r-0001"})
    assert offered(store) == "r-0001"
    assert judge(store, second, {first.profile: "r-0002", second.profile: "r-0002"})
    assert offered(store) == "r-0002"
