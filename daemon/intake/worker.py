"""The child that opens recordings, so that a decoder's crash or greed ends a child and not the daemon.

`python -m daemon.intake.worker` answers each `Request` line on stdin by a `Reading` line on a duplicate of its
stdout (native libraries print on the real one), until stdin ends.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.intake.reading import READY_LINE, ReadClip, Reading, Request, Sound, State
from idiolect.errors import AudioError, DatasetError, UnfinishedAudio, one_line
from idiolect.whisper import MAX_S
from training.audio import MIN_S, decode, decode_spans, duration_s, has_open_end, pcm_sha256
from training.clips import Clip, clips_of, find_texts, missing_text
from training.fingerprint import fingerprint
from training.quality import Finding, judge, measure, rejection, warnings

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MAX_MEMORY_BYTES = 2 << 30
OPEN_END_S = 60.0
"""So long a recording that does not say where it ends must have stood still: recorders pause, and some die."""
MAX_CPU_S = 120
"""Processor time for one recording; two hours of audio take a few seconds."""
_TELL_PROBLEMS = 3
_CUE_SLACK_S = 0.5


def read(request: Request) -> Reading:
    """Everything the library wants to know of one recording. Raises nothing for whatever a file may hold."""
    path = request.path
    try:
        kind = path.lstat().st_mode
        if not stat.S_ISREG(kind):
            return Reading(state="rejected", reason=_not_a_file(kind))
        return _read_file(request)
    except UnfinishedAudio as error:
        return Reading(state="waiting", reason=_plain(error, path))
    except (AudioError, DatasetError) as error:
        return Reading(state="rejected", reason=_plain(error, path), retry=isinstance(error.__cause__, OSError))
    except MemoryError:
        return Reading(state="rejected", reason="reading it takes more memory than any recording should")
    except OSError as error:
        return Reading(state="rejected", reason=f"cannot be read: {error.strerror or error}", retry=True)


def main() -> int:
    """Answer requests until stdin ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)
        _limit_self()
        answers.write(READY_LINE + "\n")
        for line in sys.stdin.buffer:
            _allow_cpu()
            answers.write(read(Request.model_validate_json(line)).model_dump_json() + "\n")
    return 0


def _read_file(request: Request) -> Reading:
    path, problems = request.path, list[str]()
    if request.still_s is not None and request.still_s < OPEN_END_S and has_open_end(path):
        reason = f"it does not say where it ends: taken when nobody has written to it for {OPEN_END_S:.0f} s"
        return Reading(state="waiting", reason=reason, retry=True, again_s=OPEN_END_S - request.still_s)
    texts = [text for text in find_texts(path, request.folder) if not text.is_symlink()]
    try:
        clips = clips_of(path, texts, request.folder, lambda _, reason: problems.append(reason))
    except DatasetError as error:
        reading = _read_whole(request, None, "rejected", _plain(error, path))
        return reading.model_copy(update={"retry": isinstance(error.__cause__, OSError)})
    if problems or (clips and clips[0].end_s is not None):
        return _read_cues(request, clips, problems)
    return _read_whole(request, clips[0] if clips else None, "waiting", missing_text(path, texts))


def _read_whole(request: Request, clip: Clip | None, state_without: State, reason_without: str) -> Reading:
    """One recording under one text. Its audio is judged first, so that a bad one is told before its text comes."""
    sound = request.sound or _heard(decode(request.path, max_s=MAX_S))
    seconds = sound.measures.duration_s
    language = (clip and clip.language) or request.language
    findings = judge(sound.measures, clip.text if clip else None, language)
    state, reason = state_without, "; ".join(filter(None, (reason_without, warnings(findings))))
    if rejected := rejection(findings):
        state, reason, clip = "rejected", rejected, None
    if clip is None:
        return Reading(state=state, reason=reason, duration_s=seconds, sound=sound)
    found = _read_clip(clip, sound.pcm_sha256, seconds, sound.fingerprint)
    return Reading(state="ready", reason=warnings(findings), duration_s=seconds, sound=sound, clips=(found,))


def _heard(pcm: Pcm) -> Sound:
    return Sound(pcm_sha256=pcm_sha256(pcm), fingerprint=fingerprint(pcm).hex(), measures=measure(pcm))


def _read_cues(request: Request, clips: list[Clip], problems: list[str]) -> Reading:
    """One long recording cut at its cues. A cue that cannot be used is left out and told."""
    path, found, remarks = request.path, [], list[str]()
    spans = [(clip.start_s, clip.end_s) for clip in clips]
    for clip, pcm in zip(clips, decode_spans(path, spans), strict=True):
        findings = _judge_cue(clip, pcm, request.language)
        if problem := rejection(findings):
            problems.append(f"the cue at {clip.start_s:.1f} s: {problem}")
            continue
        remarks += [f"the cue at {clip.start_s:.1f} s: {finding.message}" for finding in findings]
        found.append(_read_clip(clip, pcm_sha256(pcm), duration_s(pcm), fingerprint(pcm).hex()))
    if not found:
        return Reading(state="rejected", reason=f"none of its cues can be used: {_first(problems)}")
    left_out = f"{len(problems)} cues left out: {_first(problems)}" if problems else ""
    reason = "; ".join(filter(None, (left_out, _first(remarks))))
    seconds = sum(clip.duration_s for clip in found)
    return Reading(state="ready", reason=reason, duration_s=seconds, clips=tuple(found))


def _first(messages: list[str]) -> str:
    return "; ".join(messages[:_TELL_PROBLEMS]) + ("; …" if len(messages) > _TELL_PROBLEMS else "")


def _judge_cue(clip: Clip, pcm: Pcm, language: str) -> list[Finding]:
    wanted_s = (clip.end_s or 0.0) - clip.start_s
    if duration_s(pcm) < wanted_s - _CUE_SLACK_S:
        return [Finding("end", "rejection", "the recording ends before it")]
    if duration_s(pcm) < MIN_S:
        return [Finding("short", "rejection", "too short to hold a word")]
    return judge(measure(pcm), clip.text, clip.language or language)


def _read_clip(clip: Clip, digest: str, seconds: float, print_hex: str) -> ReadClip:
    return ReadClip(
        start_s=clip.start_s,
        end_s=clip.end_s,
        duration_s=seconds,
        pcm_sha256=digest,
        text=clip.text,
        language=clip.language,
        side=clip.side,
        fingerprint=print_hex,
    )


def _not_a_file(kind: int) -> str:
    if stat.S_ISLNK(kind):
        return "a link, and links are not followed: put the recording itself here, or watch the folder it lies in"
    if stat.S_ISDIR(kind):
        return "a folder with the name of a recording; recordings inside it are read"
    return "a pipe or a device with the name of a recording"


def _plain(error: AudioError | DatasetError, path: Path) -> str:
    """One line, without the path that stands beside it in every listing."""
    return one_line(error).removeprefix(f"{path}: ").removeprefix(f"{path.parent}{os.sep}")


def _limit_self() -> None:
    """Memory, no files, no core dumps of anyone's speech, and the back seat."""
    if sys.platform == "win32":
        return
    import resource

    import av  # noqa: F401  imported before the limits: a cached bytecode file may have to be written
    import numpy  # noqa: F401

    os.nice(10)
    for limit, value in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS knows some limits only by name
            resource.setrlimit(limit, (value, hard))


def _allow_cpu() -> None:
    """`MAX_CPU_S` from now; what exceeds it is ended by the system."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + MAX_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    sys.exit(main())
