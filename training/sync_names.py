"""Names that sync tools, browsers and recorders leave in a folder: temporary files, conflict copies, placeholders.

Each table goes from the tool to patterns of whole names, case ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

TEMPORARY: Mapping[str, tuple[str, ...]] = {
    "hidden files of every kind": (r"\..*", r"~.*", r".*~"),
    "Syncthing": (r"\.syncthing\..*\.tmp", r"~syncthing~.*\.tmp"),
    "Nextcloud, ownCloud": (r"\..*\.~[0-9a-f]+", r".*\.octransferid\d+\.part", r"\._?sync_.*\.db.*"),
    "Dropbox": (r"\.dropbox.*", r"~\$.*", r"dropbox-[\w.]*\.tmp"),
    "OneDrive": (r"~\$.*", r".*\.odtmp", r".*\.onedrive_tmp"),
    "Google Drive": (r"\.tmp\.drive(down|up)load", r".*\.gdtmp", r"desktop\.ini"),
    "rsync": (r"\..*\.[a-z0-9]{6}", r"\.~tmp~", r"\.rsync-partial"),
    "Resilio": (r".*\.!sync", r".*\.bts", r"\.sync"),
    "Unison, rclone, FTP programs": (r".*\.unison\.tmp", r".*\.[0-9a-f]{8}\.partial", r".*\.filepart", r".*\.ftp-part"),
    "MEGA": (r"\.getxfer\..*\.mega", r"\.megatmp.*", r".*\.megatmp"),
    "browsers": (r".*\.(crdownload|part|partial|download|opdownload|aria2)",),
    "Android": (r"\.pending-\d+-.*", r"\.trashed-\d+-.*", r"\.thumbnails"),
    "editors and other programs": (r".*\.(tmp|temp|swp|swx|bak)", r"#.*#", r"\.goutputstream-.*", r"\.~lock\..*#"),
    "folders of services": (
        r"@eadir|#recycle|#snapshot|\$recycle\.bin|__macosx|lost\+found|system volume information",
        r"\.st(versions|folder)|\.trash-\d+",
    ),
}
"""What is never looked at."""

CONFLICTS: Mapping[str, tuple[str, ...]] = {
    "Syncthing": (r".*\.sync-conflict-\d{8}-\d{6}.*",),
    "Nextcloud, ownCloud": (r".*\(conflicted copy .*\).*", r".*_conflict-\d{8}.*", r".*\(case clash from .*\).*"),
    "Dropbox": (
        r".*\([^)]*conflicted copy[^)]*\).*",
        r".*\([^)]*(case|selective sync|unicode encoding|whitespace) conflict[^)]*\).*",
    ),
    "OneDrive": (r".*-(desktop|laptop)-(?=[a-z]*\d)[a-z0-9]{7}(-\d+)?(\.[^.]*)?",),
    "Resilio": (r".*\.conflict(\.[^.]*)?",),
    "Seafile": (r".*\(sfconflict .*\).*",),
    "Unison": (r".*\(conflict( #\d+)?( .*| on .*)?\).*",),
}
"""Second versions that a tool made where two machines changed one file. They are told of and not learned from.

iCloud ("take 2.wav") and Google Drive ("take (1).wav") name theirs as people do: of those, equal sounds count once.
"""

PLACEHOLDERS: Mapping[str, str] = {
    "iCloud": r"\.(?P<name>.+)\.icloud",
    "Nextcloud, ownCloud": r"(?P<name>.+)\.(nextcloud|owncloud)",
    "Resilio": r"(?P<name>.+)\.rsls[cfs]?",
}
"""Stand-ins for a file that lies on a server only; `name` is the file's."""


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)


_TEMPORARY = _any_of(pattern for patterns in TEMPORARY.values() for pattern in patterns)
_CONFLICT = _any_of(pattern for patterns in CONFLICTS.values() for pattern in patterns)
_PLACEHOLDERS = [re.compile(pattern, re.IGNORECASE | re.DOTALL) for pattern in PLACEHOLDERS.values()]


def is_temporary(name: str) -> bool:
    """Whether one part of a path is hidden, unfinished, or a service's own."""
    return _TEMPORARY.fullmatch(name) is not None


def is_conflict(name: str) -> bool:
    """Whether a name is that of a conflict copy."""
    return _CONFLICT.fullmatch(name) is not None


def is_ignored(name: str) -> bool:
    """Whether nothing is learned from one part of a path."""
    return is_temporary(name) or is_conflict(name)


def placeholder_for(name: str) -> str | None:
    """The name of the file that this one stands for while it lies on a server only."""
    for pattern in _PLACEHOLDERS:
        if found := pattern.fullmatch(name):
            return found["name"]
    return None
