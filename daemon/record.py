"""Records sentences of a script, one file each, into a folder that the daemon watches.

On Linux the sound server's own tool listens where there is one. Else FFmpeg, which decodes recordings anyway, opens
the microphone: ALSA on Linux, AVFoundation on macOS, DirectShow on Windows. A device is FORMAT:NAME, as in alsa:hw:1.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect.errors import AudioError, UsageError
from idiolect.files import replacing, write_text
from idiolect.whisper import RATE_HZ
from training.split import text_key

TOOLS = {
    "linux": (
        ("parec", ["--raw", "--format=s16le", f"--rate={RATE_HZ}", "--channels=1", "--latency-msec=50"]),
        ("arecord", ["-q", "-t", "raw", "-f", "S16_LE", "-r", str(RATE_HZ), "-c", "1"]),
    )
}
"""Programs that write 16 kHz mono PCM to their standard output until they are ended."""
DEVICES = {"linux": "alsa:default", "darwin": "avfoundation::default", "win32": "dshow:audio=default"}
MAX_S = 30.0
MIN_S = 0.5
BLOCK_BYTES = RATE_HZ // 10 * 2


@dataclass(frozen=True)
class Prompt:
    """One sentence to read, and how."""

    text: str
    hint: str = ""


def read_script(file: Path) -> list[Prompt]:
    """What `idiolect prompts` wrote, or any text with a sentence a line; a `# …` line tells how to read the next one.

    Raises UsageError.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(
            f"cannot read {file}: {error.strerror}", "idiolect prompts --output FILE writes one"
        ) from error
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text", "save it as UTF-8") from None
    prompts, hint = [], ""
    for line in map(str.strip, lines):
        if line.startswith("#"):
            hint = line[1:].strip()
        elif line:
            prompts.append(Prompt(line, hint))
            hint = ""
    if not prompts:
        raise UsageError(f"{file} holds no sentence", "idiolect prompts --output FILE writes one")
    return prompts


def unread(prompts: list[Prompt], folder: Path) -> list[Prompt]:
    """Those that have no recording of this module in `folder` yet."""
    done = {text_key(path.read_text(encoding="utf-8")) for path in folder.glob("idiolect-*.txt")}
    return [prompt for prompt in prompts if text_key(prompt.text) not in done]


class Take:
    """A recording that goes on until `stop`, or MAX_S. Raises AudioError where the device cannot be opened."""

    def __init__(self, device: str | None = None, system: str = sys.platform) -> None:
        listening = _from_tool(system) if device is None else None
        self._source = listening or _from_device(device or DEVICES.get(system, DEVICES["linux"]))
        self._blocks: list[bytes] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="microphone", daemon=True)
        self._thread.start()

    @property
    def duration_s(self) -> float:
        """How much was recorded."""
        return sum(map(len, self._blocks)) / 2 / RATE_HZ

    def stop(self) -> bytes:
        """End it: 16 kHz mono PCM, signed 16 bit little endian."""
        self._stop.set()
        self._thread.join(5)
        return b"".join(self._blocks)

    def _listen(self) -> None:
        with contextlib.closing(self._source) as blocks:
            for block in blocks:
                self._blocks.append(block)
                if self._stop.is_set() or self.duration_s >= MAX_S:
                    return


def keep(pcm: bytes, text: str, folder: Path, now: float | None = None) -> Path:
    """Write NAME.txt and NAME.wav, each whole at once, the text first so that the recording is ready when it arrives.

    Raises AudioError for one that is too short to hold a word.
    """
    if len(pcm) < MIN_S * RATE_HZ * 2:
        raise AudioError(f"only {len(pcm) / 2 / RATE_HZ:.1f} s were recorded", "press Enter only after the sentence")
    folder.mkdir(parents=True, exist_ok=True)
    at = time.time() if now is None else now
    name = time.strftime("idiolect-%Y%m%d-%H%M%S", time.localtime(at)) + f"-{int(at * 1000) % 1000:03d}"
    write_text(folder / f"{name}.txt", text + "\n", mode=0o600)
    audio = folder / f"{name}.wav"
    with replacing(audio, mode=0o600) as file, wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(pcm)
    return audio


def _from_tool(system: str) -> Generator[bytes] | None:
    for name, arguments in TOOLS.get(system, ()):
        if found := shutil.which(name):
            return _printed([found, *arguments])
    return None


def _printed(command: list[str]) -> Generator[bytes]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            while block := process.stdout.read(BLOCK_BYTES):
                yield block
        finally:
            process.terminate()


def _from_device(device: str) -> Generator[bytes]:
    import av

    # The ALSA library inside PyAV's wheel looks for its settings where it was built.
    os.environ.setdefault("ALSA_CONFIG_PATH", "/usr/share/alsa/alsa.conf")
    format, _, name = device.partition(":")
    try:
        container = av.open(name, format=format)
    except (av.FFmpegError, ValueError, OSError) as error:
        hint = (
            "plug in a microphone, or name it: --device alsa:hw:1 (arecord -l lists them). Any recorder does as well."
        )
        raise AudioError(f"no microphone at {device}: {error}", hint) from error
    if not container.streams.audio:
        container.close()
        raise AudioError(f"{device} gives no sound", "name a microphone: --device FORMAT:NAME")
    return _resampled(container)


def _resampled(container: Any) -> Generator[bytes]:  # noqa: ANN401
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with container:
        for frame in container.decode(audio=0):
            for block in resampler.resample(frame):
                yield bytes(block.planes[0])[: block.samples * 2]
