"""The leaf package alone as a wheel: it holds nothing else, asks for little, and pulls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from daemon.sync.releases import ReleaseStore
from idiolect.pairing import Pairing, Pairings
from tests.daemon.sync.publishing import candidate, model_bytes
from tests.idiolect.services import serving

ROOT = Path(__file__).parent.parent
PULL = """
import sys

class OnlyWhatIsAskedFor:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {others}:
            raise ImportError(f"{{name}} is not a dependency of the client")

sys.meta_path.insert(0, OnlyWhatIsAskedFor())
import idiolect
assert {here!r} in idiolect.__file__, idiolect.__file__
from idiolect import Client
print(Client({into!r}, "android-futo", url={url!r}).pull().files[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make client-wheel` builds it."""
    pytest.importorskip("setuptools", reason="setuptools builds the wheel")
    folder = tmp_path_factory.mktemp("client")
    shutil.copytree(ROOT / "idiolect", folder / "idiolect", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "LICENSE", ROOT / "clients/python/pyproject.toml", ROOT / "clients/python/README.md"):
        shutil.copy(file, folder)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    (made,) = (folder / "dist").glob("idiolect_client-*-py3-none-any.whl")
    return made


def test_it_holds_the_leaf_package_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "idiolect/client.py" in names
    assert "idiolect/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"idiolect", "idiolect_client"}
    assert wheel.stat().st_size < 100_000


def test_its_dependencies_are_those_of_idiolect() -> None:
    whole, client = (
        tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]
        for path in ("pyproject.toml", "clients/python/pyproject.toml")
    )
    assert client["version"] == whole["version"]
    assert set(client["dependencies"]) < set(whole["dependencies"])


@pytest.mark.slow
def test_it_pulls_without_anything_else(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDIOLECT_HOME", str(tmp_path / "home"))
    zipfile.ZipFile(wheel).extractall(tmp_path / "app")
    store = ReleaseStore(tmp_path / "store")
    store.publish(candidate(tmp_path / "made", 1))
    others = set("torch numpy aiohttp rich typer av jiwer segno watchdog psutil daemon training exporters".split())
    with serving(store) as connection:
        mine = Pairing(id=store.repo, pin=connection.pin, token=connection.token, root_key=store.keys.root_key)
        Pairings().save(mine)
        code = PULL.format(
            others=others, here=str(tmp_path / "app"), into=str(tmp_path / "models" / "current"), url=connection.url
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "app")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == model_bytes(1)
