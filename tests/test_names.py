"""What can drift: the five import names, the version against the change log, the README's commands."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_five_names_are_ours_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in ("daemon", "exporters", "training", "device_profiles", "idiolect"):
        assert set(owners.get(name, ["idiolect"])) == {"idiolect"}, name


def test_the_change_log_begins_with_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest.group(1) == version


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from daemon.cli import app

    known = set(getattr(get_command(app), "commands"))  # noqa: B009
    readme = (ROOT / "README.md").read_text()
    used = set(re.findall(r"^(?:\.venv/bin/)?idiolect ([a-z]+)", readme, re.MULTILINE))
    assert used
    assert used <= known


def test_the_extras_are_those_the_readme_names() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{extra}`" in readme for extra in extras)
