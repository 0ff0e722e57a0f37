"""`idiolect check FOLDER`: what a folder's recordings are worth, without a daemon and without remembering anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daemon.intake.reader import Reader
from daemon.intake.reading import Reading, Request
from daemon.intake.scan import is_usable_name, readable, scan
from idiolect.child import Reporter
from idiolect.errors import UsageError
from training.fingerprint import SAME_BITS, difference, nearly_the_same
from training.quality import judge_language
from training.split import text_key


@dataclass(frozen=True)
class Checked:
    """One recording: its state, as in the library, and every remark of a sentence."""

    path: str
    state: str
    reason: str
    duration_s: float | None


@dataclass(frozen=True)
class Report:
    """A folder's recordings in the order of paths. `conflicts` are left aside, `unreadable` folders with the reason."""

    recordings: tuple[Checked, ...]
    conflicts: tuple[str, ...]
    unreadable: dict[str, str]

    def counts(self) -> dict[str, int]:
        """Recordings by state, and those that are ready with a remark."""
        states = Counter(recording.state for recording in self.recordings)
        remarked = sum(recording.state == "ready" and recording.reason != "" for recording in self.recordings)
        kinds = ("ready", "waiting", "rejected", "duplicate")
        return {**{state: states[state] for state in kinds}, "remarked": remarked}

    def to_json(self) -> dict[str, Any]:
        """As `idiolect check --json` prints it."""
        return {
            "counts": self.counts(),
            "ready_s": sum(r.duration_s or 0.0 for r in self.recordings if r.state == "ready"),
            "recordings": [vars(recording) for recording in self.recordings],
            "conflicts": list(self.conflicts),
            "unreadable": self.unreadable,
        }


def check(folder: Path, language: str, reporter: Reporter) -> Report:
    """Read every recording below `folder` in the confined worker. UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder", "name a folder with recordings")
    return asyncio.run(_check(folder.absolute(), language, reporter))


def heard_as(report: Report, model: str, language: str, cache: Path, reporter: Reporter) -> Report:
    """The report with a remark where a multilingual `model` hears another language. Raises UsageError, CheckpointError.

    `nano` is refused: of its many language tokens it was taught one.
    """
    from training.audio import decode
    from training.base_models import resolve
    from training.decode import CheckpointTranscriber

    if model == "nano":
        raise UsageError("nano knows only English", "name a multilingual model, such as tiny")
    transcriber = CheckpointTranscriber(resolve(model, cache), model)
    checked = []
    reporter.stage("listening for the language")
    for done, recording in enumerate(report.recordings, start=1):
        reporter.check_stop()
        if recording.state in {"ready", "waiting"} and recording.duration_s is not None:
            code, likely = transcriber.language(decode(Path(recording.path)))
            if finding := judge_language(code, likely, language):
                reasons = filter(None, (recording.reason, finding.message))
                recording = replace(recording, reason="; ".join(reasons))
        checked.append(recording)
        reporter.progress(done, len(report.recordings), "recordings")
    return replace(report, recordings=tuple(checked))


async def _check(folder: Path, language: str, reporter: Reporter) -> Report:
    listing = scan(folder)
    reader, found, seen = Reader(), list[Checked](), _Seen()
    reporter.stage("checking recordings")
    try:
        for done, path in enumerate(sorted(listing.recordings), start=1):
            reporter.check_stop()
            if is_usable_name(path):
                reading = await reader.read(Request(path=Path(path), folder=folder, language=language))
            else:
                path = readable(path)
                reading = Reading(state="rejected", reason="its name is not valid UTF-8: rename it")
            found.append(seen.place(path, reading))
            reporter.progress(done, len(listing.recordings), "recordings")
    finally:
        await reader.close()
    unreadable = {readable(at): why for at, why in listing.unreadable.items()}
    return Report(tuple(found), tuple(sorted(map(readable, listing.conflicts))), unreadable)


class _Seen:
    """The sounds of the recordings before."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._takes: dict[str, list[tuple[str, bytes]]] = {}

    def place(self, path: str, reading: Reading) -> Checked:
        state, reasons = str(reading.state), [reading.reason]
        before = [self._digests.get(clip.pcm_sha256) for clip in reading.clips]
        if before and all(before):
            state, reasons = "duplicate", [f"the same sound as {before[0]}, counted once"]
        for clip in reading.clips:
            self._digests.setdefault(clip.pcm_sha256, path)
            takes = self._takes.setdefault(text_key(clip.text), [])
            mine = bytes.fromhex(clip.fingerprint)
            if state == "ready":
                near = ((other, difference(mine, theirs)) for other, theirs in takes if other != path)
                reasons += [nearly_the_same(other, by) for other, by in near if by < SAME_BITS][:1]
            takes.append((path, mine))
        return Checked(path, state, "; ".join(filter(None, reasons)), reading.duration_s)
