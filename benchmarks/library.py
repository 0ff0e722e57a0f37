"""What a large library costs: `python -m benchmarks.library [RECORDINGS]` (10000, of 5 s, FLAC).

Starts the real console script on a home of its own. Exit status 1 when a limit is missed. With fewer recordings the
limit of the first scan shrinks alike, but not below ten seconds. Then all come once more to an empty home, one by one
as a sync tool brings them: a storm of single events, four to a recording.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.resident import cpu_s, daemon
from daemon.paths import Paths
from daemon.sync.control import ask
from training.audio import decode
from training.base_models import NANO_ARCHIVE

VOICE = NANO_ARCHIVE.parent / "voices" / "human"
RECORDINGS = 10_000
CLIP_S = 5.0
SETTLE_S = 2.0

MAX_FIRST_SCAN_S = 60.0
MAX_RESCAN_S = 1.0
MAX_GROWTH_MB = 30.0
MAX_IDLE_PERCENT = 0.2
MARGIN_S = 1.0


def main() -> int:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RECORDINGS
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths.at(Path(folder) / "home")
        recordings = Path(folder) / "recordings"
        make(recordings, count + 5)
        aside = Path(folder) / "aside"
        aside.mkdir()
        late = sorted(recordings.glob("*/*.flac"))[-5:]
        for path in late:
            for file in (path, path.with_suffix(".txt")):
                file.rename(aside / file.name)
        rows = measure(paths, recordings, [aside / path.name for path in late], count)
        rows += storm(Paths.at(Path(folder) / "other"), paths.recordings / "all", count)
    for name, value, limit, unit in rows:
        print(f"{name:<52} {value:8.2f} {unit:<2}  limit {limit:g} {unit:<2} {'ok' if value <= limit else 'MISSED'}")
    return int(any(value > limit for _, value, limit, _ in rows))


def measure(paths: Paths, recordings: Path, late: list[Path], count: int) -> list[tuple[str, float, float, str]]:
    """The rows of the table: name, value, limit, unit."""
    with daemon(paths, settle_s=SETTLE_S, voice=None) as (process, _):
        empty_mb = process.memory_info().rss / 1e6
        before_s = total_cpu_s(process)
        began_s = time.perf_counter()
        # One rename, so that the clock does not count the copying.
        recordings.rename(paths.recordings / "all")
        first_s, growth_mb = seconds_until(paths, count, began_s, process, empty_mb)
        used_s = total_cpu_s(process) - before_s
        began_s = time.perf_counter()
        while process.children() and time.perf_counter() < began_s + 60:  # the reader leaves when idle
            growth_mb = max(growth_mb, process.memory_info().rss / 1e6 - empty_mb)
            time.sleep(0.5)
        began_s = time.perf_counter()
        ask(paths, "rescan")
        rescan_s = time.perf_counter() - began_s
        arrivals_s = [arrival_s(paths, path) for path in late]
        time.sleep(15)
        idle_s, began_s = cpu_s(process), time.perf_counter()
        time.sleep(60)
        idle_percent = (cpu_s(process) - idle_s) / (time.perf_counter() - began_s) * 100
        growth_mb = max(growth_mb, process.memory_info().rss / 1e6 - empty_mb)
    return [
        (f"first scan of {count} recordings", first_s, max(10.0, MAX_FIRST_SCAN_S * count / RECORDINGS), "s"),
        ("  processor time of it", used_s, 2 * MAX_FIRST_SCAN_S * count / RECORDINGS + SETTLE_S, "s"),
        ("unchanged rescan", rescan_s, MAX_RESCAN_S, "s"),
        ("growth of the resident process", growth_mb, MAX_GROWTH_MB, "MB"),
        ("a new file in status, the slowest of 5", max(arrivals_s), SETTLE_S + MARGIN_S, "s"),
        ("processor over 60 idle seconds", idle_percent, MAX_IDLE_PERCENT, "%"),
    ]


def storm(paths: Paths, source: Path, count: int) -> list[tuple[str, float, float, str]]:
    """The rows of single arrivals: each file is written under a temporary name, and then named."""
    with daemon(paths, settle_s=SETTLE_S, voice=None) as (process, _):
        empty_mb = process.memory_info().rss / 1e6
        began_s, growth_mb = time.perf_counter(), 0.0
        for folder in sorted(source.iterdir()):
            there = paths.recordings / folder.name
            there.mkdir()
            for file in sorted(folder.iterdir()):
                temporary = there / f".syncthing.{file.name}.tmp"
                shutil.copyfile(file, temporary)
                temporary.rename(there / file.name)
            growth_mb = max(growth_mb, process.memory_info().rss / 1e6 - empty_mb)
        brought_s = time.perf_counter() - began_s
        all_s, grown_mb = seconds_until(paths, count, began_s, process, empty_mb)
    return [
        (f"{count} single arrivals within {brought_s:.0f} s: all ready", all_s, 2 * MAX_FIRST_SCAN_S, "s"),
        ("growth of the resident process", max(growth_mb, grown_mb), MAX_GROWTH_MB, "MB"),
    ]


def make(folder: Path, count: int) -> None:
    """`count` recordings of `CLIP_S`, each of its own sound and text, in folders of 500."""
    import av
    import numpy as np

    voice = np.concatenate([decode(path) for path in sorted(VOICE.glob("*.ogg"))])
    chosen, size = random.Random(0), round(CLIP_S * 16_000)
    for number in range(count):
        at = chosen.randrange(voice.size - size)
        path = folder / f"{number // 500:03d}" / f"{number:05d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("flac", rate=16_000, layout="mono")
            samples = np.rint(voice[at : at + size] * 32_000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = 16_000
            for part in (frame, None):
                container.mux(stream.encode(part))
        path.with_suffix(".txt").write_text(" ".join(chosen.choice(WORDS) for _ in range(12)))


WORDS = "zero one two three four five six seven eight nine".split()


def seconds_until(
    paths: Paths, count: int, began_s: float, process: psutil.Process, empty_mb: float
) -> tuple[float, float]:
    """Until so many recordings are ready, looked at from outside so that nobody is disturbed; how many MB the process
    grew meanwhile."""
    library, growth_mb = sqlite3.connect(f"file:{paths.library_db}?mode=ro", uri=True), 0.0
    while True:
        (found,) = library.execute("SELECT count(*) FROM files WHERE state = 'ready'").fetchone()
        growth_mb = max(growth_mb, process.memory_info().rss / 1e6 - empty_mb)
        if found >= count:
            library.close()
            return time.perf_counter() - began_s, growth_mb
        if time.perf_counter() > began_s + 1200:
            raise SystemExit(f"{found} of {count} recordings are read after twenty minutes")
        time.sleep(0.1)


def arrival_s(paths: Paths, path: Path) -> float:
    """Seconds from a recording's arrival until `idiolect status` counts it."""
    before = counted(paths)
    for file in (path.with_suffix(".txt"), path):
        shutil.copy(file, paths.recordings / file.name)
    began_s = time.perf_counter()
    while counted(paths) <= before:
        if time.perf_counter() > began_s + 60:
            raise SystemExit(f"{path.name} is not in status after a minute")
        time.sleep(0.05)
    return time.perf_counter() - began_s


def counted(paths: Paths) -> int:
    """Recordings that were read and taken; of so many, some are the same sound by chance."""
    recordings = ask(paths, "status")["recordings"]
    return int(recordings["ready"] + recordings["duplicate"])


def total_cpu_s(process: psutil.Process) -> float:
    """Processor seconds of the process and all its children."""
    return cpu_s(process) + sum(sum(child.cpu_times()[:2]) for child in process.children())


if __name__ == "__main__":
    sys.exit(main())
