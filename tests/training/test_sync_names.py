import pytest

from training.sync_names import (
    CONFLICTS,
    PLACEHOLDERS,
    TEMPORARY,
    is_conflict,
    is_ignored,
    is_temporary,
    placeholder_for,
)

TEMPORARY_NAMES = {
    "hidden files of every kind": [".hidden.wav", "._mac.wav", "a.wav~", "~a.wav"],
    "Syncthing": [".syncthing.a.wav.tmp", "~syncthing~a.wav.tmp"],
    "Nextcloud, ownCloud": [".a.wav.~1f3c9a", "a.wav.ocTransferId1987.part", "._sync_5f1a.db-wal", ".sync_5f1a.db"],
    "Dropbox": [".dropbox", ".dropbox.cache", "~$a.wav", "dropbox-upload.tmp"],
    "OneDrive": ["~$a.wav", "a.wav.odtmp", "a.onedrive_tmp"],
    "Google Drive": [".tmp.drivedownload", ".tmp.driveupload", "a.wav.gdtmp", "desktop.ini"],
    "rsync": [".a.wav.Xy12Zq", ".~tmp~", ".rsync-partial"],
    "Resilio": ["a.wav.!sync", "a.wav.bts", ".sync"],
    "Unison, rclone, FTP programs": ["a.wav.unison.tmp", "a.wav.1f2e3d4c.partial", "a.wav.filepart", "a.wav.ftp-part"],
    "MEGA": [".getxfer.123.0.mega", ".megatmp.X1", "a.wav.megatmp"],
    "browsers": ["a.wav.crdownload", "Unconfirmed 1.crdownload", "a.wav.part", "a.wav.download", "a.wav.opdownload"],
    "Android": [".pending-1700000000-a.m4a", ".trashed-1700000000-a.m4a", ".thumbnails"],
    "editors and other programs": ["a.txt.tmp", "a.txt.swp", "#a.txt#", ".goutputstream-X1Y2Z3", ".~lock.a.txt#"],
    "folders of services": [
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "__MACOSX",
        "lost+found",
        ".stversions",
        ".Trash-1000",
    ],
}
CONFLICT_NAMES = {
    "Syncthing": ["a.sync-conflict-20240101-120000-ABCDEFG.wav", "a.sync-conflict-20240101-120000.txt"],
    "Nextcloud, ownCloud": [
        "a (conflicted copy 2024-01-01 120000).wav",
        "a_conflict-20240101-120000.wav",
        "a (case clash from ann).wav",
    ],
    "Dropbox": [
        "a (Ann's conflicted copy 2024-01-01).wav",
        "a (Case Conflict).wav",
        "a (Selective Sync Conflict 1).wav",
    ],
    "OneDrive": ["a-DESKTOP-4F2K9QS.wav", "a-LAPTOP-0A1B2C3-2.txt"],
    "Resilio": ["a.Conflict.wav"],
    "Seafile": ["a (SFConflict ann@example.org 2024-01-01-12-00-00).wav"],
    "Unison": ["a (conflict on 2024-01-01).wav", "a (conflict #2 on desk).wav"],
}
PLACEHOLDER_NAMES = {
    "iCloud": [".a.wav.icloud"],
    "Nextcloud, ownCloud": ["a.wav.nextcloud", "a.wav.owncloud"],
    "Resilio": ["a.wav.rsls", "a.wav.rslsc"],
}


@pytest.mark.parametrize(("tool", "name"), [(tool, name) for tool, names in TEMPORARY_NAMES.items() for name in names])
def test_temporary_names(tool: str, name: str) -> None:
    assert is_temporary(name)
    assert is_ignored(name)


@pytest.mark.parametrize(("tool", "name"), [(tool, name) for tool, names in CONFLICT_NAMES.items() for name in names])
def test_conflict_copies(tool: str, name: str) -> None:
    assert is_conflict(name)
    assert not is_temporary(name)
    assert is_ignored(name)


@pytest.mark.parametrize(
    ("tool", "name"), [(tool, name) for tool, names in PLACEHOLDER_NAMES.items() for name in names]
)
def test_placeholders(tool: str, name: str) -> None:
    assert placeholder_for(name) == "a.wav"


def test_every_tool_has_its_test() -> None:
    assert TEMPORARY_NAMES.keys() == TEMPORARY.keys()
    assert CONFLICT_NAMES.keys() == CONFLICTS.keys()
    assert PLACEHOLDER_NAMES.keys() == PLACEHOLDERS.keys()


@pytest.mark.parametrize(
    "name",
    [
        "a.wav",
        "conflicted copy of feelings.wav",
        "tmp",
        "part one.wav",
        "שלום.wav",
        'a b\'s "c"\n.wav',
        "my new laptop-problem.wav",
        "inner conflict.wav",
        "take (1).wav",
        "Recording 2.m4a",
        "download.wav",
        "20240101_120000.3gp",
    ],
)
def test_names_of_people_are_not(name: str) -> None:
    assert not is_ignored(name)
    assert placeholder_for(name) is None
