from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.sync.devices import Devices
from daemon.sync.releases import ReleaseStore
from idiolect.client import Client, Pulled
from idiolect.errors import HookFailed, UsageError
from idiolect.hook import Hook
from tests.idiolect.pulls import copy_manifest, hidden
from tests.idiolect.services import LyingService, Request

CODE = "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open(os.environ['OUT'], 'w'))"


def pulled(folder: Path, **update: object) -> Pulled:
    said = {
        "release_id": "r-0001",
        "tier": "tiny",
        "profile": "android-futo",
        "changed": True,
        "into": folder,
        "files": [folder / "model.bin"],
        "size_bytes": 1,
        "version": 1,
        "url": "https://127.0.0.1:1",
        "previous": None,
    }
    return Pulled(**(said | update))  # type: ignore[arg-type]


@pytest.mark.parametrize("nasty", ['"; touch x #', "a\nb", "$(touch x)", "`touch x`", "-rf", "--", "ü"])
def test_nothing_is_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nasty: str) -> None:
    """What it is given arrives as it is, as arguments and in the environment, and nothing else happens."""
    out = tmp_path / "out.json"
    monkeypatch.setenv("OUT", str(out))
    monkeypatch.chdir(tmp_path)
    Hook([sys.executable, "-c", CODE, nasty]).run(pulled(tmp_path, tier=nasty))
    arguments, environment = json.loads(out.read_text(encoding="utf-8"))
    assert arguments == [nasty]
    assert environment["IDIOLECT_TIER"] == nasty
    assert environment["IDIOLECT_FILE"] == str(tmp_path / "model.bin")
    assert environment["IDIOLECT_PREVIOUS"] == ""
    assert list(tmp_path.iterdir()) == [out]


def test_what_can_go_wrong(tmp_path: Path) -> None:
    for argv in ([], [""], ["no-such-program"], [str(tmp_path)]):
        with pytest.raises(UsageError, match="there is no program"):
            Hook(argv)
    with pytest.raises(HookFailed, match="ended with 3"):
        Hook([sys.executable, "-c", "raise SystemExit(3)"]).run(pulled(tmp_path))
    with pytest.raises(HookFailed, match="did not end within 0 s"):
        Hook([sys.executable, "-c", "import time; time.sleep(60)"]).run(pulled(tmp_path), timeout_s=0.2)
    script = tmp_path / "script"
    script.write_text("no program")
    script.chmod(0o755)
    with pytest.raises(HookFailed, match="cannot be started"):
        Hook([str(script)]).run(pulled(tmp_path))


def test_once_for_each_release_and_again_after_a_failure(
    url: str, publish: Callable[..., bytes], into: Path, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    count.write_text("")
    good = Hook([sys.executable, "-c", f"open({str(count)!r}, 'a').write('x')"])
    bad = Hook([sys.executable, "-c", "raise SystemExit(1)"])
    client = Client(into, "android-futo", url=url)
    publish(1)
    assert client.run_hook(good, client.pull())
    assert not client.run_hook(good, client.pull())
    publish(2)
    with pytest.raises(HookFailed):
        client.run_hook(bad, client.pull())
    assert client.run_hook(good, client.pull())  # although nothing has changed since
    assert not client.run_hook(good, client.pull())
    assert count.read_text() == "xx"


def test_the_last_version_whose_hook_ended_well_is_kept(
    url: str, publish: Callable[..., bytes], into: Path, store: ReleaseStore
) -> None:
    """However many releases after it fail; and no longer than until another one is good."""
    good, bad = (Hook([sys.executable, "-c", f"raise SystemExit({code})"]) for code in (0, 1))
    client = Client(into, "android-futo", url=url)
    for seed, hook, kept in ((1, good, [1]), (2, bad, [1, 2]), (3, bad, [1, 2, 3]), (4, bad, [1, 3, 4])):
        publish(seed)
        with contextlib.suppress(HookFailed):
            client.settle(client.pull(), hook)
        assert sorted({path.name[:6] for path in hidden(into).glob("r-*")}) == [f"r-{each:04}" for each in kept]
    client.settle(client.pull(), good)
    publish(5)
    client.pull()
    assert sorted(path.name[:6] for path in hidden(into).glob("r-*")) == ["r-0004", "r-0005"]
    store.rollback("tiny", "r-0004")
    client.settle(client.pull(), good)
    assert sorted(path.name[:6] for path in hidden(into).glob("r-*")) == ["r-0004", "r-0005"]


def test_what_could_not_be_told_is_told_later(
    store: ReleaseStore, publish: Callable[..., bytes], into: Path, liar: LyingService
) -> None:
    """Once, also from another process, and by the next pull even where that brings nothing new."""
    heard: list[dict[str, object]] = []
    answers = [503, 204]

    def hear(request: Request) -> None:
        heard.append(json.loads(request.rfile.read(int(request.headers["Content-Length"]))))
        request.send(answers.pop(0) if answers else 204)

    publish(1)
    copy_manifest(store, liar)
    liar.answers["/v1/reports"] = hear
    client = Client(into, "android-futo", url=liar.url)
    assert not client.report(client.pull(), loaded=True)
    for _ in range(2):
        assert not Client(into, "android-futo", url=liar.url).pull().changed
    assert [(said["release"], said["loaded"]) for said in heard] == [("r-0001", True)] * 2
    answers.append(404)  # nobody wants to know: it is not told for ever
    client.report(client.pull(), loaded=True)
    client.pull()
    assert len(heard) == 3


def test_reports(url: str, publish: Callable[..., bytes], into: Path, store: ReleaseStore) -> None:
    publish(1)
    client = Client(into, "android-futo", url=url)
    assert not client.report(pulled(into))  # nothing was asked yet
    now = client.pull()
    assert client.report(now, loaded=True)
    assert client.report(now, loaded=False, error="does not\nload" * 100)
    assert not client.report(pulled(into, release_id="r-0009"))
    assert not client.report(pulled(into, profile="iphone"))


def test_what_devices_hold_is_kept(tmp_path: Path) -> None:
    from idiolect.wire import Report

    devices = Devices(tmp_path / "devices.sqlite3")
    device, _ = devices.add("phone", "android", frozenset())
    for release, loaded in (("r-0001", True), ("r-0002", False), ("r-0003", None)):
        devices.note_report(device, Report(release=release, profile="android-futo", loaded=loaded, error="a\nb"))
    devices.close()
    again = Devices(tmp_path / "devices.sqlite3")
    (said,) = again.describe()
    (held,) = said["holds"]
    assert (held["release"], held["loaded"], held["error"]) == ("r-0003", None, "a b")
    again.close()
