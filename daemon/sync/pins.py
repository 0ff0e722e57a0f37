"""Devices that stay at a release, whatever the channels name: kept in the manifest on disk, and told to nobody.

A device is told its own manifest, in which every channel of the tier names what it is pinned to. So no client needs to
know of pins, and pinning takes effect by the same version that every other change does.
"""

from __future__ import annotations

from idiolect.wire import Manifest, ReleaseId, Tier

Pins = dict[str, dict[Tier, ReleaseId]]


class Kept(Manifest):
    """The manifest as it lies in the store. `pins` maps device id → tier → release id."""

    pins: Pins | None = None

    def told(self, device_id: str) -> Kept:
        """As this device is told it, without pins."""
        pinned = (self.pins or {}).get(device_id, {})
        channels = {
            tier: dict.fromkeys(("stable", *names), pinned[tier]) if tier in pinned else names
            for tier, names in self.channels.items()
        }
        return self.model_copy(update={"channels": channels, "pins": None})


def pinned(pins: Pins | None, device_id: str, tier: str, release_id: str) -> Pins:
    """The pins and this one, in place of any other of the device in this tier."""
    pins = pins or {}
    return {**pins, device_id: {**pins.get(device_id, {}), tier: release_id}}


def without(pins: Pins | None, *, device_id: str = "", release_id: str = "") -> Pins:
    """The pins but for those of that device and those to that release."""
    kept = {
        device: {tier: release for tier, release in names.items() if release != release_id}
        for device, names in (pins or {}).items()
        if device != device_id
    }
    return {device: names for device, names in kept.items() if names}
