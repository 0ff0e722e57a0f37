"""What `idiolect status --json` says, with a running daemon and without one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from daemon.config import Config
from daemon.intake.library import Recording, Run
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.work.runs import look
from daemon.work.scheduler import Action, next_action
from idiolect.wire import Manifest, Release


def describe(
    rooms: Rooms,
    action: Action,
    *,
    pid: int | None,
    job: dict[str, Any] | None = None,
    urls: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything a user or a program may want to know. Times in UTC, rates as fractions; `pid` of the daemon."""
    counts = rooms.library.counts()
    return {
        "pid": pid,
        "recordings_folder": str(rooms.folders[0]),
        "recordings_folders": [str(folder) for folder in rooms.folders],
        "recordings": {
            "ready": counts.ready,
            "waiting": counts.waiting,
            "rejected": counts.rejected,
            "duplicate": counts.duplicate,
        },
        "rejections": _recordings(rooms.library.recordings("rejected")),
        "waiting": _recordings(rooms.library.recordings("waiting")),
        "remarks": _recordings(rooms.library.remarked()),
        "clips": counts.clips,
        "hours": counts.ready_s / 3600,
        "next": {
            "action": action.kind,
            "reason": action.reason,
            "tier": action.tier,
            "run": action.run_id,
            "waits_for": action.waits_for,
            "at": None if action.at is None else datetime.fromtimestamp(action.at, UTC).isoformat(timespec="seconds"),
        },
        "job": job,
        "runs": [_run(run) for run in rooms.library.runs()],
        "releases": _releases(rooms.store.manifest),
        "server": {"urls": list(urls)},
        "models_folder": str(rooms.paths.models),
        "warnings": [*rooms.warnings(), *warnings],
    }


def offline_status(paths: Paths, config: Config) -> dict[str, Any]:
    """The same without a daemon, from the library alone. Raises AlreadyRunning where somebody holds the home."""
    with paths.locked(), Rooms.opened(paths, config) as rooms:
        action = next_action(look(rooms), config.training, time.time())
        warnings = ["no daemon is running; start it with: idiolect run"]
        warnings += [f"{folder} does not exist" for folder in rooms.folders if not folder.is_dir()]
        return describe(rooms, action, pid=None, warnings=warnings)


def _recordings(recordings: Sequence[Recording]) -> list[dict[str, str]]:
    return [{"path": str(recording.path), "reason": recording.reason} for recording in recordings]


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "tier": run.tier,
        "base": run.base,
        "state": run.state,
        "reason": run.reason,
        "release": run.release_id,
        "created": run.created.isoformat(timespec="seconds"),
        "finished": run.finished.isoformat(timespec="seconds") if run.finished else None,
        "summary": run.summary,
    }


def _releases(manifest: Manifest | None) -> list[dict[str, Any]]:
    return [_release(release, manifest) for release in manifest.releases] if manifest else []


def _release(release: Release, manifest: Manifest) -> dict[str, Any]:
    return {
        "id": release.id,
        "tier": release.tier,
        "created": release.created.isoformat(timespec="seconds"),
        "channels": [
            name for name, current in manifest.channels.get(release.tier, {}).items() if current == release.id
        ],
        "wer_stock": release.eval.wer_stock,
        "wer_tuned": release.eval.wer_tuned,
        "artifacts": [
            {
                "profile": artifact.profile,
                "format": artifact.format,
                "quantization": artifact.quantization,
                "size_bytes": artifact.size_bytes,
                "wer": artifact.checked.wer,
                "checked": artifact.checked.status,
                "files": [file.path for file in artifact.files],
            }
            for artifact in release.artifacts
        ],
    }
