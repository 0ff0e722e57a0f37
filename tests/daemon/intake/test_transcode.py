"""Sent recordings in their confined child: what it makes of good ones, and that hostile ones get nowhere."""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from daemon.intake import seccomp, transcode
from daemon.intake.reader import Reader
from daemon.intake.reading import Reading
from daemon.intake.transcode import COMMAND, Transcode
from idiolect.sending import MAX_RECORDING_S
from tests.training.samples import CODECS, silence, sound, without_length, write_encoded, write_wav
from training.audio import decode, pcm_sha256

pytestmark = pytest.mark.slow

MAX_RSS_BYTES = 300 << 20
TEN_HOURS_S = 36_000


async def plain(path: Path, command: tuple[str, ...] = COMMAND) -> tuple[Reading, Path]:
    """What the child says, and the file that it made."""
    into = path.with_name("made")
    reader = Reader(command, timeout_s=transcode.TIMEOUT_S)
    try:
        return await reader.read(Transcode(path=path, folder=path.parent, into=into)), into
    finally:
        await reader.close()


@pytest.mark.parametrize("name", ["a.wav", *CODECS])
async def test_every_format_becomes_the_same_sound_in_flac(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.wav":
        write_wav(path, sound(2.0, 44_100), 44_100, channels=2)
    else:
        write_encoded(path, sound(2.0, CODECS[name][1]), *CODECS[name])
    reading, made = await plain(path)

    assert (reading.state, reading.reason) == ("ready", "")
    assert made.read_bytes()[:4] == b"fLaC"
    assert made.stat().st_mode & 0o777 == 0o600
    assert reading.clips[0].pcm_sha256 == pcm_sha256(decode(path)) == pcm_sha256(decode(made))
    assert reading.duration_s == decode(made).size / 16_000


async def test_tags_do_not_travel(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.flac"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "<script>title</script>"
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((sound(1.0)[None] * 32767).astype("<i2"), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert b"<script>" in path.read_bytes()
    reading, made = await plain(path)
    assert reading.state == "ready"
    assert b"<script>" not in made.read_bytes()


def _wav(riff: int, data: int, channels: int = 1, rate_hz: int = 16_000, body: bytes = b"\x11\x22" * 8000) -> bytes:
    block = 2 * channels & 0xFFFF
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate_hz, min(rate_hz * block, 2**32 - 1), block, 16)
    return b"RIFF" + struct.pack("<I", riff) + b"WAVE" + fmt + b"data" + struct.pack("<I", data) + body


def _ogg_chain(links: int) -> bytes:
    import io

    import av

    made = io.BytesIO()
    with av.open(made, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound(5.0, 48_000)[None], format="flt", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return made.getvalue() * links


def _m4a(tmp_path: Path) -> bytes:
    """Its sample table claims four thousand million samples."""
    data = bytearray(write_encoded(tmp_path / "good.m4a", sound(1.0), "aac").read_bytes())
    at = data.index(b"stts") + 8
    data[at : at + 12] = struct.pack(">III", 0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF)
    size = data.index(b"stsz") + 12
    data[size : size + 4] = struct.pack(">I", 0xFFFF_FFFF)
    return bytes(data)


BOMBS: dict[str, Callable[[Path], bytes]] = {
    "ten hours of silence in flac": lambda _: silence(TEN_HOURS_S),
    "… that does not tell its length": lambda _: without_length(silence(TEN_HOURS_S)),
    "wav of 2^32 frames": lambda _: _wav(0xFFFF_FFFF, 0xFFFF_FFFE),
    "wav of 2^31 bytes": lambda _: _wav(0x8000_0024, 0x7FFE_0000),
    "96 channels": lambda _: _wav(36 + 192 * 8000, 192 * 8000, channels=96, body=bytes(range(256)) * 6000),
    "65535 channels": lambda _: _wav(36 + 16_000, 16_000, channels=65_535),
    "4 GHz": lambda _: _wav(36 + 16_000, 16_000, rate_hz=4_000_000_000),
    "ogg chain of fifty minutes": lambda _: _ogg_chain(600),
    "m4a with a huge table": _m4a,
    "half a flac": lambda tmp: write_encoded(tmp / "h.flac", sound(5.0), "flac").read_bytes()[:40_000],
    "a playlist": lambda _: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a concatenation": lambda _: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "nothing": lambda _: b"",
}
HARMLESS = {"wav of 2^32 frames"}
"""A writer that could not go back leaves such a size: it is not believed, and what is there is taken."""


@pytest.mark.parametrize("bomb", BOMBS)
async def test_bombs_cost_neither_memory_nor_time(tmp_path: Path, bomb: str) -> None:
    """Each in a child whose memory is watched from outside, in whatever way it ends."""
    path = tmp_path / "sent"
    path.write_bytes(BOMBS[bomb](tmp_path))
    assert path.stat().st_size <= 25 << 20
    peak_file = tmp_path / "peak"
    watched = (
        "from daemon.intake import transcode\n"
        "status = open('/proc/self/status')\n"
        f"report = open({str(peak_file)!r}, 'w', buffering=1)\n"
        "transcode.main()\n"
        "print(next(line.split()[1] for line in status if line.startswith('VmHWM')), file=report)\n"
    )
    reading, made = await plain(path, (sys.executable, "-c", watched))

    assert made.stat().st_size < 1 << 20
    if bomb in HARMLESS:
        assert (reading.state, reading.duration_s) == ("ready", 0.5)
    else:
        assert reading.state == "rejected", reading
        assert made.stat().st_size == 0
    assert not psutil.Process().children()
    if text := peak_file.read_text():
        assert int(text) * 1024 < MAX_RSS_BYTES


EVIL = """
import json, os, resource, socket, sys
from concurrent.futures import ThreadPoolExecutor
from daemon.intake import transcode
from daemon.intake.reading import Reading

def attempt(name, act):
    try:
        act()
        return [name]
    except OSError:
        return []

def flawed(file):  # the decoder, when a flaw in it has been used
    raised = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    def rights():
        try: raised()
        except ValueError as error: raise OSError from error
    done = attempt("raise limit", rights)
    done += attempt("read", lambda: open("/etc/passwd"))
    done += attempt("write", lambda: open({canary!r}, "w"))
    done += attempt("socket", lambda: socket.socket())
    done += attempt("pipe", os.pipe)
    done += attempt("list", lambda: os.listdir("/"))
    if {by_name}:
        done += attempt("unlink", lambda: os.unlink({there!r}))
        done += attempt("rename", lambda: os.rename({there!r}, {canary!r}))
        done += attempt("truncate", lambda: os.truncate({there!r}, 0))
        done += attempt("chmod", lambda: os.chmod({there!r}, 0))
        done += attempt("link", lambda: os.symlink("/etc", {canary!r}))
        done += attempt("kill", lambda: os.kill(os.getppid(), 0))
        done += attempt("fork", lambda: os.fork() or os._exit(0))
        done += attempt("exec", lambda: os.execv("/bin/true", ["true"]))
        done += attempt("kill from a thread", lambda: later.submit(os.kill, os.getppid(), 0).result())
        done += attempt("kill from one that ran before", lambda: earlier.submit(os.kill, os.getppid(), 0).result())
    if {greedy}:
        bytearray(3 << 30)
    raise transcode.AudioError("did: " + json.dumps(done))

earlier, later = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
earlier.submit(int).result()
warm_up = transcode._warm_up
def instead():
    warm_up()
    transcode._flac = flawed
transcode._warm_up = instead
sys.exit(transcode.main())
"""


async def flawed(tmp_path: Path, *, by_name: bool = False, greedy: bool = False) -> tuple[str, Path]:
    """What a decoder with a flaw got done, and a place where it should have made nothing."""
    path, canary, there = write_wav(tmp_path / "a.wav", sound(1.0)), tmp_path / "canary", tmp_path / "there"
    there.write_text("kept")
    evil = EVIL.format(canary=str(canary), there=str(there), by_name=by_name, greedy=greedy)
    reading, _ = await plain(path, (sys.executable, "-c", evil))
    return reading.reason.removeprefix("did: "), canary


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
async def test_a_flaw_in_the_decoder_opens_nothing(tmp_path: Path) -> None:
    done, canary = await flawed(tmp_path)
    root_may = ['["raise limit"]', "[]"]  # a process with CAP_SYS_RESOURCE; the service runs as a user
    assert done in (root_may if psutil.Process().uids().real == 0 else ["[]"])
    assert not canary.exists()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in seccomp.MACHINES, reason="kept on Linux alone, see `confine`"
)
async def test_a_flaw_in_the_decoder_deletes_and_ends_nothing(tmp_path: Path) -> None:
    """What takes a name or a number instead of an open file, also as root, and in every thread."""
    done, canary = await flawed(tmp_path, by_name=True)
    assert done == "[]"
    assert not canary.is_symlink()
    assert (tmp_path / "there").read_text() == "kept"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
async def test_greed_ends_in_the_child(tmp_path: Path) -> None:
    reason, _ = await flawed(tmp_path, greedy=True)
    assert reason == "reading it takes more memory than any recording should"


def test_the_limit_is_what_clients_are_told() -> None:
    assert transcode.MAX_S == MAX_RECORDING_S
