"""The child that opens what a device has sent, and makes a plain recording of it that can be opened without fear.

`python -m daemon.intake.transcode` answers one `Transcode` line on stdin by a `Reading` line, as the worker does, and
ends. Between opening the two files and looking into the sent one it gives up whatever a decoder does not need: a flaw
in the decoder finds no further file, no network and no program to start, and on Linux nothing to delete, rename or end.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from daemon.intake import seccomp
from daemon.intake.reading import READY_LINE, ReadClip, Reading, Request
from idiolect.errors import AudioError
from idiolect.whisper import RATE_HZ
from training.audio import MIN_S, opened

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MAX_S = 600.0
TIMEOUT_S = 60.0
MAX_MEMORY_BYTES = 1 << 30
MAX_CPU_S = 30
"""Ten minutes take one to ten, by machine and codec; on the clock more while a training runs."""
MAX_FILE_BYTES = 32 << 20
"""More than ten minutes of noise take as 16-bit FLAC at 16 kHz."""
DISK_FULL = "the disk is full"
COMMAND = (sys.executable, "-m", "daemon.intake.transcode")


class Transcode(Request):
    """Make a new file `into` of what `path` holds: FLAC, 16 kHz, mono, 16 bit, and nothing but the sound."""

    into: Path


def main() -> int:
    """Answer one request."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)
        _warm_up()
        _limit("AS", MAX_MEMORY_BYTES)
        _limit("FSIZE", MAX_FILE_BYTES)
        _limit("CORE", 0)
        _limit("CPU", MAX_CPU_S)
        answers.write(READY_LINE + "\n")
        if line := sys.stdin.buffer.readline():
            answers.write(_answer(Transcode.model_validate_json(line)).model_dump_json() + "\n")
    return 0


def transcode(path: Path, target: BinaryIO) -> tuple[float, str]:
    """Write the sound of `path` to `target`; its length in seconds and its `training.audio.pcm_sha256`.

    From the call on this process can open nothing any more. Raises AudioError, and OSError where `target` cannot be
    written.
    """
    made, digest, samples, loud = io.BytesIO(), hashlib.sha256(), 0, False
    with opened(path, MAX_S) as blocks:
        confine()
        with _flac(made) as encode:
            for block in blocks:
                values = _int16(block)
                digest.update(values.tobytes())
                samples += values.size
                loud = loud or bool(values.any())
                encode(values)
    if samples < MIN_S * RATE_HZ:
        raise AudioError(f"{samples / RATE_HZ:.2f} s of audio is too short to hold a word")
    if not loud:
        raise AudioError("there is no sound in it, only digital silence")
    target.write(made.getbuffer())
    target.flush()
    os.fsync(target.fileno())
    return samples / RATE_HZ, digest.hexdigest()


def confine() -> None:
    """No file and no socket can be opened from now on, and therefore no program started. There is no way back.

    That holds everywhere but on Windows. Names and process numbers need no open file: that nothing is deleted, renamed
    or ended is kept on Linux alone (x86-64 and ARM). macOS has nothing such that is documented.
    """
    _limit("NOFILE", 0)
    seccomp.confine()


def _answer(request: Transcode) -> Reading:
    try:
        descriptor = os.open(request.into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(descriptor, "wb") as target:
            duration_s, digest = transcode(request.path, target)
    except AudioError as error:
        return Reading(state="rejected", reason=error.message.removeprefix(f"{request.path}: "))
    except MemoryError:
        return Reading(state="rejected", reason="reading it takes more memory than any recording should")
    except OSError as error:
        reason = DISK_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else f"cannot be read: {error.strerror}"
        return Reading(state="rejected", reason=reason, retry=True)
    clip = ReadClip(start_s=0.0, end_s=None, duration_s=duration_s, pcm_sha256=digest, text="")
    return Reading(state="ready", duration_s=duration_s, clips=(clip,))


@contextlib.contextmanager
def _flac(file: BinaryIO) -> Iterator[Any]:
    import av

    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE_HZ, layout="mono", options={"compression_level": "5"})

        def encode(values: Any) -> None:  # noqa: ANN401
            frame = av.AudioFrame.from_ndarray(values[None], format="s16", layout="mono")
            frame.sample_rate = RATE_HZ
            container.mux(stream.encode(frame))

        yield encode
        container.mux(stream.encode(None))


def _int16(pcm: Pcm) -> Any:  # noqa: ANN401
    import numpy as np

    return np.clip(np.rint(pcm * 32768.0), -32768, 32767).astype("<i2")


def _warm_up() -> None:
    """Whatever is imported or loaded at first use has to be there before the door closes."""
    import wave

    import av
    import numpy as np

    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        sound.writeframes(np.zeros(RATE_HZ, "<i2").tobytes())
    file.seek(0)
    with av.open(file, "r") as container, _flac(io.BytesIO()) as encode:
        resampler = av.AudioResampler(format="fltp", rate=RATE_HZ)
        for frame in container.decode(container.streams.audio[0]):
            for part in resampler.resample(frame):
                encode(_int16(part.to_ndarray().mean(axis=0)))
    with contextlib.suppress(av.FFmpegError):
        av.open(io.BytesIO(b"not audio"))


def _limit(name: str, value: int) -> None:
    """Both limits, so that nothing raises them again; Windows has none, and macOS knows some only by name."""
    if sys.platform == "win32":
        return
    import resource

    which = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (value, value))


if __name__ == "__main__":
    sys.exit(main())
