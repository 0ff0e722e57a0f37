"""Log-mel on disk: computed once for a recording and a mel setting, whatever models are trained on it, however often.

An entry is the SHA-256 of its data, then the data: float16 (n_mels, frames), frame by frame in each row. One that does
not fit its digest is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.files import replacing
from idiolect.whisper import HOP_SAMPLES, N_FFT

if TYPE_CHECKING:
    import torch

    from idiolect.transcriber import Pcm
    from training.features import LogMel

FORMAT = 1  # raise it when the numbers that LogMel makes change
MAX_BYTES = 2_000_000_000  # some 35 hours of speech at 80 mels
_DIGEST_BYTES = hashlib.sha256().digest_size


class MelCache:
    """Log-mel energies under `folder`, at most `max_bytes` of them after `trim`."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self.computed = 0
        """Entries that had to be made."""

    def get(self, pcm: Pcm, log_mel: LogMel) -> torch.Tensor:
        """float16 (n_mels, frames) of `log_mel(pcm)`, from disk where it is there whole."""
        import torch

        setting = f"{FORMAT} {log_mel.n_mels} {N_FFT} {HOP_SAMPLES}"
        key = hashlib.sha256(setting.encode() + pcm.tobytes()).hexdigest()
        path = self._folder / key[:2] / f"{key[2:]}.mel"
        data = _read(path)
        if data is not None:
            return torch.frombuffer(data, dtype=torch.float16, offset=_DIGEST_BYTES).view(log_mel.n_mels, -1)
        mel = log_mel(pcm).half()
        self.computed += 1
        with contextlib.suppress(OSError):  # a full disk costs time, not the training
            _write(path, mel.numpy().tobytes())
        return mel

    def trim(self) -> None:
        """Remove the entries unused for longest, until the others are within `max_bytes`."""
        found = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):  # another process may be trimming too
                found.append((path.stat(), path))
        excess = sum(stat.st_size for stat, _ in found) - self._max_bytes
        for stat, path in sorted(found, key=lambda entry: entry[0].st_mtime_ns):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= stat.st_size


def _read(path: Path) -> bytearray | None:
    try:
        data = bytearray(path.read_bytes())
        os.utime(path)
    except OSError:
        return None
    whole = hashlib.sha256(memoryview(data)[_DIGEST_BYTES:]).digest() == data[:_DIGEST_BYTES]
    return data if whole else None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(hashlib.sha256(data).digest() + data)
