"""What the user decides about recordings that devices have sent: look, take in, refuse, trust, undo."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from daemon.sync.inbox import Recording, describe
from idiolect.errors import StoreError, UsageError

if TYPE_CHECKING:
    from daemon.rooms import Rooms


def review(rooms: Rooms, arguments: dict[str, Any]) -> dict[str, Any]:
    """Answer {action, …}, from a command or from the control socket. Raises UsageError, StoreError."""
    action = _ACTIONS.get(str(arguments.get("action", "list")))
    if action is None:
        raise UsageError("no such thing can be done with the inbox", f"known: {', '.join(_ACTIONS)}")
    try:
        return action(rooms, arguments)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the inbox cannot be changed: {error}", "look at free space and access rights; what was done so far stays"
        ) from error


def _list(rooms: Rooms, arguments: dict[str, Any]) -> dict[str, Any]:
    found = rooms.inbox.all(None if arguments.get("all") else "waiting")
    return {"recordings": describe(found), "trusted": sorted(rooms.inbox.trusted())}


def _take(rooms: Rooms, arguments: dict[str, Any]) -> dict[str, Any]:
    numbers, text = _numbers(rooms, arguments), str(arguments.get("text") or "")
    if text and len(numbers) != 1:
        raise UsageError("a text belongs to one recording", "name its number: inbox take NUMBER --text TEXT")
    return {"recordings": describe([rooms.inbox.take(number, text) for number in numbers])}


def _refuse(rooms: Rooms, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"recordings": describe([rooms.inbox.refuse(number) for number in _numbers(rooms, arguments)])}


def _trust(rooms: Rooms, arguments: dict[str, Any]) -> dict[str, Any]:
    device_id = _device_id(rooms, arguments)
    trusted = arguments.get("trusted") is not False
    if trusted:
        device = next((each for each in rooms.devices.all() if each.id == device_id), None)
        if device is None or device.revoked_s is not None:
            raise UsageError(f"{device_id} is not let in", "see: idiolect devices")
    rooms.inbox.trust(device_id, trusted=trusted)
    return {"device_id": device_id, "trusted": trusted}


def _undo(rooms: Rooms, arguments: dict[str, Any]) -> dict[str, Any]:
    """Also tells which runs have learned from what is taken back, and where else in the folders the same sounds lie."""
    device_id = _device_id(rooms, arguments)
    undone = rooms.inbox.undo(device_id)
    sounds = {each.pcm_sha256 for each in undone if each.state == "taken"}
    paths = {each.path for each in undone}
    done = [run for run in rooms.library.runs() if run.state in {"published", "kept"}]
    learned = [run for run in done if sounds & rooms.library.trained_on(run.id)]
    clips = rooms.library.ready_clips()
    return {
        "device_id": device_id,
        "undone": len(undone),
        "runs": [{"id": run.id, "tier": run.tier, "release": run.release_id} for run in learned],
        "copies": sorted({str(clip.path) for clip in clips if clip.pcm_sha256 in sounds and clip.path not in paths}),
    }


_ACTIONS: dict[str, Callable[[Rooms, dict[str, Any]], dict[str, Any]]] = {
    "list": _list,
    "take": _take,
    "refuse": _refuse,
    "trust": _trust,
    "undo": _undo,
}


def _numbers(rooms: Rooms, arguments: dict[str, Any]) -> Sequence[int]:
    """Those that are named, or all that wait and whose text came."""
    named = arguments.get("numbers") or []
    if not isinstance(named, list) or not all(isinstance(each, int) for each in named):
        raise UsageError(f"{named!r} are no numbers", "see: idiolect inbox")
    if named or not arguments.get("all"):
        return named
    waiting: list[Recording] = rooms.inbox.all("waiting")
    return [each.number for each in waiting if each.meta is not None or arguments.get("action") == "refuse"]


def _device_id(rooms: Rooms, arguments: dict[str, Any]) -> str:
    """By id or label, of those that were ever let in or have sent something."""
    name = str(arguments.get("device", ""))
    known = {device.id: device.label for device in rooms.devices.all()}
    known |= {each.device_id: each.device_label for each in rooms.inbox.all()}
    found = [id for id in known if id == name] or [id for id, label in known.items() if label == name]
    if len(found) != 1:
        what = f"more than one device is called {name!r}" if found else f"no device is called {name!r}"
        raise UsageError(what, f"known: {', '.join(f'{id} ({label})' for id, label in known.items()) or 'none'}")
    return found[0]
