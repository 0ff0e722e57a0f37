from __future__ import annotations

import subprocess
import sys

import pytest

import idiolect
from idiolect.client import Client, find


def test_the_door() -> None:
    """`from idiolect import …` works for all that is promised and loads nothing heavy."""
    assert idiolect.Client is Client
    assert idiolect.find is find
    for name in idiolect.__all__:
        assert getattr(idiolect, name)
    with pytest.raises(AttributeError, match="no attribute 'clinet'"):
        idiolect.clinet  # noqa: B018
    code = (
        "import sys, idiolect.errors\n"
        "assert not {'pydantic', 'http.client', 'asyncio'} & set(sys.modules), 'errors are light'\n"
        "from idiolect import Client\n"
        "heavy = {'numpy', 'torch', 'aiohttp', 'zeroconf', 'filelock', 'daemon', 'training', 'exporters'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
