"""What the user decides about releases: look at them, roll back, withdraw, make new keys. A change is a new version.

`act` is what the running daemon does for a command, and what a command does itself on a store without a daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from idiolect.errors import UsageError

if TYPE_CHECKING:
    from daemon.sync.devices import Devices
    from daemon.sync.pins import Kept
    from daemon.sync.releases import ReleaseStore
    from idiolect.wire import Manifest, Release, Report

COMMANDS = ("releases", "rollback", "withdraw", "pin", "unpin", "rotate-keys")
NOTHING_YET = UsageError("nothing has been published yet", "`idiolect status` says what the daemon waits for")


def act(store: ReleaseStore, devices: Devices, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Do one of COMMANDS: `rollback` {tier, release}, `withdraw` {release}, `pin` {device, release}, `unpin` {device},
    `rotate-keys` {root}; gives what is published after it. The caller is the one process that may publish. Raises
    UsageError, StoreError."""
    if command == "rollback":
        store.rollback(str(arguments.get("tier", "")), str(arguments.get("release", "")))
    elif command == "withdraw":
        store.withdraw(str(arguments.get("release", "")))
    elif command == "pin":
        store.pin(devices.find(str(arguments.get("device", ""))).id, str(arguments.get("release", "")))
    elif command == "unpin":
        _unpin(store, devices, str(arguments.get("device", "")))
    elif command == "rotate-keys":
        store.rotate(root_too=arguments.get("root") is True)
    return describe(store)


def judge(store: ReleaseStore, report: Report, held: Mapping[str, str]) -> bool:
    """What the canary says of a release that only the beta channel names: loaded, it becomes the stable one, and else,
    or where it hears no better than the stock model did here, it is withdrawn. One that `held` (profile to release, as
    it said last) has at the stable release in another profile has yet to try that. True where something was done.
    Raises StoreError."""
    release = store.manifest.release(report.release) if store.manifest else None
    names = store.manifest.channels.get(release.tier, {}) if store.manifest and release else {}
    if report.loaded is None or release is None or names.get("beta") != release.id or names.get("stable") == release.id:
        return False
    if not report.loaded or (report.wer is not None and report.wer >= release.eval.wer_stock):
        store.withdraw(release.id)
        return True
    if any(release.artifact(profile) and at == names.get("stable") for profile, at in held.items()):
        return False
    store.rollback(release.tier, release.id)
    return True


def untried(manifest: Manifest | None, canary: str) -> list[str]:
    """A sentence for each release that only the beta channel names: who keeps it from the others, and the way on."""
    who = f"the canary, {canary}, to try it with a hook" if canary else "a canary, and [publish] canary names none"
    return [
        f"{names['beta']} ({tier}) waits for {who}; for all devices at once: idiolect rollback {tier} {names['beta']}"
        for tier, names in (manifest.channels.items() if manifest else ())
        if "beta" in names and names["beta"] != names.get("stable")
    ]


def describe(store: ReleaseStore) -> dict[str, Any]:
    """What `idiolect releases --json` says; rates are fractions."""
    manifest = store.manifest
    if manifest is None:
        return {"version": 0, "root_version": 0, "expires": None, "releases": []}
    return {
        "version": manifest.version,
        "root_version": manifest.root_version,
        "expires": manifest.expires.isoformat(),
        "releases": [_described(release, manifest) for release in manifest.releases],
    }


def earlier(manifest: Manifest | None, tier: str, wanted: str = "") -> Release:
    """The release to go back to: `wanted`, else the newest before the tier's stable one. Raises UsageError."""
    if manifest is None:
        raise NOTHING_YET
    if tier not in manifest.channels:
        raise UsageError(f"nothing is published for tier {tier!r}", f"there: {', '.join(manifest.channels)}")
    now = manifest.channels[tier].get("stable", "")
    good = [each for each in manifest.releases if each.tier == tier and each.id not in {now, *manifest.withdrawn}]
    found = next((each for each in good if each.id == wanted), None) if wanted else _before(good, now)
    if found is None:
        known = ", ".join(each.id for each in good)
        what = f"cannot go back to {wanted}" if wanted else f"has no release before {now or 'this'}"
        raise UsageError(f"{tier} {what}", f"choose one of {known}" if known else "no other release of it is listed")
    return found


def stable_at(names: Mapping[str, str], release_id: str) -> dict[str, str]:
    """A tier's channels where `release_id` is its stable release. A beta that is not newer than both stable releases,
    this one and the one before, goes with it: who tries beta never stays behind, and a late report of a release that
    the user has turned away from decides nothing."""
    settled = max(_number(release_id), _number(names.get("stable", release_id)))
    follows = {"beta": release_id} if "beta" in names and _number(names["beta"]) <= settled else {}
    return {**names, "stable": release_id, **follows}


def without(manifest: Manifest, release: Release) -> dict[str, dict[str, str]]:
    """The channels where `release` is withdrawn: each that named it names the newest good one before it, or nothing."""
    gone = {release.id, *manifest.withdrawn}
    good = [each for each in manifest.releases if each.tier == release.tier and each.id not in gone]
    before = _before(good, release.id)
    channels = {tier: dict(names) for tier, names in manifest.channels.items()}
    for channel, named in list(channels.get(release.tier, {}).items()):
        if named == release.id:
            if before:
                channels[release.tier][channel] = before.id
            else:
                del channels[release.tier][channel]
    return channels


def _unpin(store: ReleaseStore, devices: Devices, name: str) -> None:
    pins = (store.manifest.pins if store.manifest else None) or {}
    if not store.unpin(name if name in pins else devices.find(name).id):  # one that was shut out has only its id left
        raise UsageError(f"{name} is not pinned to a release", f"those that are: {', '.join(pins) or 'none'}")


def _before(releases: list[Release], release_id: str) -> Release | None:
    number = _number(release_id) if release_id else 10**12
    older = [each for each in releases if each.number < number]
    return max(older, key=lambda each: each.number, default=None)


def _number(release_id: str) -> int:
    return int(release_id.removeprefix("r-"))


def _described(release: Release, manifest: Kept) -> dict[str, Any]:
    named = manifest.channels.get(release.tier, {})
    return {
        "id": release.id,
        "tier": release.tier,
        "created": release.created.isoformat(),
        "channels": sorted(channel for channel, release_id in named.items() if release_id == release.id),
        "withdrawn": release.id in manifest.withdrawn,
        "pinned": sorted(device for device, names in (manifest.pins or {}).items() if release.id in names.values()),
        "parent": release.parent,
        "wer_stock": release.eval.wer_stock,
        "wer_tuned": release.eval.wer_tuned,
        "profiles": [artifact.profile for artifact in release.artifacts],
        "size_bytes": sum(artifact.size_bytes for artifact in release.artifacts),
    }
