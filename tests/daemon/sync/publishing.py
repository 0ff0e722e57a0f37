"""What is published in tests: small random files with Whisper's magic, as a finished job would hand them over."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

from daemon.sync.releases import Candidate
from idiolect.wire import Artifact, ArtifactFile, BaseModelInfo, Checked, EvalInfo, TrainInfo

MAGIC = bytes.fromhex("6c6d6767")
DIGEST = "ab" * 32


def model_bytes(seed: int, size_bytes: int = 5_000) -> bytes:
    """The magic of a ggml file and bytes that differ from seed to seed."""
    return MAGIC + random.Random(seed).randbytes(size_bytes - 4)


def artifact(folder: Path, files: Mapping[str, bytes], profile: str = "android-futo") -> Artifact:
    """Write `files` below `folder`; the artifact that they are."""
    listed = []
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        listed.append(
            ArtifactFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), magic=data[:4].hex())
        )
    return Artifact(
        profile=profile,
        format="ggml",
        quantization="q4_0",
        size_bytes=sum(map(len, files.values())),
        checked=Checked(runtime="whisper.cpp 1.8.5", wer=0.139, speed_x=31.0),
        files=listed,
    )


def candidate(folder: Path, *seeds: int, tier: str = "tiny", size_bytes: int = 5_000) -> Candidate:
    """A release with one file for each seed; the profiles are android-futo, desktop-whispercpp, p2, p3, …"""
    profiles = ["android-futo", "desktop-whispercpp", *(f"p{i}" for i in range(2, 9))]
    artifacts = []
    for seed, profile in zip(seeds or (1,), profiles, strict=False):
        place = folder / f"{tier}-{seed}"
        files = {f"idiolect-{tier}-{profile}.bin": model_bytes(seed, size_bytes)}
        artifacts.append((artifact(place, files, profile), place))
    return of(*artifacts, tier=tier)


def of(*artifacts: tuple[Artifact, Path], tier: str = "tiny") -> Candidate:
    """A release with these artifacts."""
    return Candidate(
        tier=tier,
        languages=["en"],
        base=BaseModelInfo(name="openai/whisper-tiny", license="MIT"),
        train=TrainInfo(recordings=540, audio_s=3310.5, seed=7, recipe_sha256=DIGEST),
        eval=EvalInfo(
            set_sha256=DIGEST, utterances=120, audio_s=734.2, wer_stock=0.214, wer_tuned=0.131, wer_ci95=(0.112, 0.15)
        ),
        artifacts=artifacts,
    )
