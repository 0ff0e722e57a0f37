"""An exported file as a Transcriber in its own runtime, in a child process where that runtime can crash."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.kinds import dims_of, imported, kind_of
from idiolect.errors import RuntimeFailed, UsageError, require
from idiolect.transcriber import DecodingOptions, Transcriber, Transcription
from idiolect.whisper import RATE_HZ, audio_context, special_tokens

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

ANSWER_TIMEOUT_S = 600.0  # a 30 s clip with a large model on a slow machine takes minutes, never this many
_TELLING = re.compile(r"error|exception|fail|assert|abort", re.IGNORECASE)  # most of what whisper.cpp prints is sizes
_DEFAULTS = DecodingOptions()


def open_artifact(path: Path, threads: int = 0) -> Transcriber:
    """Load an exported file or folder in the runtime it is for; `threads` 0: half of the cores, all for full windows.

    Raises ArtifactError (the reader refuses it), MissingExtra, RuntimeFailed (the runtime does).
    """
    path = path.resolve()
    opened: Transcriber = imported(kind_of(path).runtime)(path, threads)
    return opened


class InChild:
    """A runtime in a child process (`exporters.serving`). See idiolect.transcriber.Transcriber."""

    module: str
    program: str
    needs: tuple[str, str]
    """What is imported, and the extra that installs it."""

    @classmethod
    def checked(cls, path: Path, threads: int) -> InChild:
        """Load what its reader finds sound. Raises as `open_artifact`."""
        n_vocab = dims_of(path).n_vocab
        require(*cls.needs)
        return cls(path, n_vocab, threads)

    def __init__(self, path: Path, n_vocab: int, threads: int = 0) -> None:
        self.name = path.name
        self._special = special_tokens(n_vocab)
        self._child = _Child([sys.executable, "-m", self.module, str(path)], self.program)
        self._threads = threads
        hello = self._child.ask(b"", f"loading {self.name}")
        self.runtime: str = hello["runtime"]
        self.not_checked = tuple(hello["not_checked"])
        self._peak_bytes = 0

    def transcribe(self, pcm: Pcm, options: DecodingOptions = _DEFAULTS) -> Transcription:
        """One clip; the shortest are padded with silence to just over 1 s, the least that apps transcribe.

        Raises UsageError (not 1-D float32, or a language Whisper does not have), RuntimeFailed.
        """
        if pcm.ndim != 1 or pcm.dtype != "float32":
            raise UsageError(f"PCM of shape {pcm.shape} and type {pcm.dtype}", "expected 1-D float32, mono, 16 kHz")
        self._check_language(options.language)
        request = {
            "samples": len(pcm),
            "language": options.language,
            "audio_context": audio_context(len(pcm)) if options.audio_context == "dynamic" else 0,
            "timestamps": options.timestamps,
            "beam_size": options.beam_size,
            "threads": self._threads or _threads(options.audio_context),
        }
        duration_s = len(pcm) / RATE_HZ
        data = json.dumps(request).encode() + b"\n" + pcm.tobytes()
        answer = self._child.ask(data, f"transcribing {duration_s:.1f} s of audio with {self.name}")
        if "error" in answer:
            raise RuntimeFailed(f"{self.runtime} with {self.name}: {answer['error']}", "export the model again")
        self._peak_bytes = max(self._peak_bytes, answer["peak_bytes"])
        return Transcription(answer["text"], duration_s, answer["compute_s"])

    def transcribe_many(self, clips: Sequence[Pcm], options: DecodingOptions = _DEFAULTS) -> Iterator[Transcription]:
        """Clips one after the other, as the apps hear them."""
        return (self.transcribe(pcm, options) for pcm in clips)

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of the child, as of its last answer; 0 before the first."""
        return self._peak_bytes

    def close(self) -> None:
        """End the child. A second call does nothing."""
        self._child.close()

    def _check_language(self, code: str) -> None:
        """Runtimes take an unknown code as a wish to guess, or end."""
        try:
            self._special.prompt(code)
        except KeyError:
            raise UsageError(f"Whisper has no language {code!r}", "use a code like en, de, he") from None


class WhisperCpp(InChild):
    """Greedy decoding, or a beam search, without fallback, as FUTO sets it; flash attention off."""

    module, program = "exporters.whispercpp", "whisper.cpp"
    needs = ("pywhispercpp", "whispercpp")


class SherpaOnnx(InChild):
    """Greedy decoding of the clip and the 10 s of silence that the apps add ("dynamic"), or of 30 s."""

    module, program = "exporters.sherpa_runtime", "sherpa-onnx"
    needs = ("sherpa_onnx", "sherpa")


class FasterWhisper(InChild):
    """Greedy decoding of full windows of 30 s: faster-whisper knows no others."""

    module, program = "exporters.faster_whisper_runtime", "faster-whisper"
    needs = ("faster_whisper", "ct2")


class Transformers(InChild):
    """Greedy decoding of full windows of 30 s by transformers' own generate()."""

    module, program = "exporters.transformers_runtime", "transformers"
    needs = ("transformers", "train")


class TranscribeCpp(InChild):
    """Greedy decoding of full windows of 30 s: transcribe.cpp knows no others."""

    module, program = "exporters.transcribecpp", "transcribe.cpp"
    needs = ("transcribe_cpp", "gguf")


class _Child:
    """A process that answers with JSON lines; its stderr is kept for the error message."""

    def __init__(self, command: list[str], program: str) -> None:
        self._program = program
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )

    def ask(self, data: bytes, doing: str) -> dict[str, Any]:
        """Write `data`, read the answer. Raises RuntimeFailed, saying what was being done, when there is none."""
        watchdog = threading.Timer(ANSWER_TIMEOUT_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._exchange(data)
        finally:
            watchdog.cancel()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        reason = _ending(self._process.wait())
        details = self._last_errors()
        self.close()
        raise RuntimeFailed(f"{self._program} {reason} while {doing}", details or "export the model again")

    def _exchange(self, data: bytes) -> bytes:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the child is gone; its exit status tells more
            if not stdin.closed:
                stdin.write(data)
                stdin.flush()
        return b"" if stdout.closed else stdout.readline()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _last_errors(self) -> str:
        if self._errors.closed:
            return ""
        self._errors.seek(max(0, os.fstat(self._errors.fileno()).st_size - 2000))
        lines = self._errors.read().decode("utf-8", "replace").splitlines()
        return "\n".join([line for line in lines if _TELLING.search(line)][-3:])


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit status {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _threads(context: str) -> int:
    """Half of the cores: ggml's threads spin while they wait for each other, so one core that something else keeps
    busy stalls them all (nano on a busy machine of two cores: 80 × real time with one thread, 3 × with two). Full
    windows are ten times the work and worth every core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if context == "full" else max(1, cores // 2)
