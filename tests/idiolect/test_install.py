from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pytest

from idiolect.errors import UsageError
from idiolect.install import MARKER, Place, State, Version
from idiolect.trust import Trust
from idiolect.wire import ArtifactFile
from tests.idiolect.steps import killed_at_step


def put(place: Place, release_id: str, content: dict[str, bytes]) -> str:
    """What a client does when everything is downloaded."""
    files = []
    with place.locked():
        for path, data in content.items():
            file = ArtifactFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            if not place.find(file):
                place.part(file).write_bytes(data)
            files.append(file)
        version = Version(
            release_id=release_id,
            tier="tiny",
            profile="android-futo",
            files={file.path: file.size_bytes for file in files},
        )
        name = place.build(version, files)
        old = place.swap(name)
        place.remove_all_but(name, old)
    return name


def shown(place: Place) -> dict[str, bytes]:
    return {
        path.relative_to(place.into).as_posix(): path.read_bytes()
        for path in place.into.rglob("*")
        if path.is_file() and path.name != MARKER
    }


OLD = {"model.bin": b"old model", "config.json": b"{}"}
NEW = {"model.bin": b"new model", "config.json": b"{}", "deep/er/vocab.txt": b"words"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "models" / "current")


def test_swap(place: Place) -> None:
    assert place.installed() is None
    first = put(place, "r-0001", OLD)
    assert shown(place) == OLD
    second = put(place, "r-0002", NEW)
    assert shown(place) == NEW
    assert place.into.readlink() == Path(".current.idiolect") / second
    assert {path.name for path in place.hidden.iterdir()} == {"parts", "lock", first, second}
    version = place.installed()
    assert version is not None
    assert version.release_id == "r-0002"


def test_the_whole_may_be_moved(place: Place, tmp_path: Path) -> None:
    put(place, "r-0001", OLD)
    moved = place.into.parent.rename(tmp_path / "elsewhere")
    assert shown(Place(moved / "current")) == OLD


@pytest.mark.slow
def test_killed_at_any_step_the_old_or_the_new_is_shown_whole(tmp_path: Path) -> None:
    killed, steps, seen = True, 0, []
    while killed:
        place = Place(tmp_path / f"models-{steps}" / "current")
        put(place, "r-0001", OLD)
        killed = killed_at_step(steps, place.into.parent, partial(_whole, Place(place.into)))
        seen.append(shown(place))
        assert seen[-1] in (OLD, NEW)
        assert place.installed() is not None
        put(place, "r-0003", NEW)
        assert shown(place) == NEW
        versions = [path for path in place.hidden.iterdir() if path.name.startswith("r-")]
        assert len(versions) in (2, 3)  # the last whose hook ended well is kept too
        assert {path.name for path in place.into.parent.iterdir()} == {place.into.name, place.hidden.name}
        assert not list(place.hidden.rglob("*.tmp"))
        steps += 1
    assert seen.count(OLD) > 10
    assert seen.count(NEW) > 2


def _whole(place: Place) -> None:
    """Everything that a pull with a hook writes."""
    with place.locked():
        place.save(State(repo="a" * 12))
    put(place, "r-0002", NEW)
    with place.locked():
        place.save(State(repo="b" * 12))
        place.hooked("r-0002", "android-futo")


def test_state(place: Place) -> None:
    with place.locked():
        assert place.load() == State()
        state = State(repo="a" * 12, trust=Trust(version=3), etag='"mv-3"')
        place.save(state)
        assert place.load() == state


@pytest.mark.parametrize("target", ["/etc", "..", "nowhere", ".other.idiolect/r-0001"])
def test_links_of_others(place: Place, target: str) -> None:
    place.into.parent.mkdir()
    place.into.symlink_to(target)
    with pytest.raises(UsageError, match="was not put there by idiolect"), place.locked():
        pass
    assert place.into.readlink() == Path(target)
    assert not place.hidden.exists()


def test_the_user_is_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Place(Path("~/models/current")).into == tmp_path / "models" / "current"
    assert Place(Path("current")).hidden == tmp_path / ".current.idiolect"
