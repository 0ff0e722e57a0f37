import threading
from pathlib import Path

import pytest

from daemon.intake import outlook
from daemon.intake.outlook import SILENT, Outlook
from daemon.intake.scan import Listing


async def test_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("x")

    look = await Outlook(tmp_path).look(())

    assert list(look.listing.recordings) == [str(tmp_path / "a.wav")]
    assert not look.told


async def test_a_late_look_is_taken_and_never_begun_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, looks = threading.Event(), list[Path]()

    def slow_scan(folder: Path) -> Listing:
        looks.append(folder)
        gate.wait()
        return Listing(folders={7})

    monkeypatch.setattr(outlook, "scan", slow_scan)
    monkeypatch.setattr(outlook, "PATIENCE_S", 0.01)
    over = Outlook(tmp_path)

    for _ in range(3):
        assert (await over.look(())).listing.unreadable == {str(tmp_path): SILENT}
    assert over.silent
    assert not await over.changed((), ())  # the next look tells
    gate.set()
    while over.silent:
        found = await over.look(())

    assert found.listing.folders == {7}
    assert looks == [tmp_path]


async def test_a_look_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = Outlook(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(outlook, "scan", lambda folder: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await over.look(())

    assert len((await over.look(())).listing.folders) == 1
