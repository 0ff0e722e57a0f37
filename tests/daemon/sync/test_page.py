"""The pairing code in a browser: as a browser shows it, and who cannot see it."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
import segno

from daemon.sync import page as pages
from daemon.sync.page import PairingPage
from daemon.sync.pairing import PairingDesk
from tests.daemon.sync.doors import House, identity, problem

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


@pytest.fixture
def desk(home: House) -> PairingDesk:
    return PairingDesk(identity(), home.devices)


@pytest.fixture
async def page(desk: PairingDesk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PairingPage]:
    monkeypatch.setattr(pages, "LOOK_S", 0.02)
    page = PairingPage(desk)
    yield page
    await page.hide()


async def get(url: str, path: str = "", host: str = "", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    def ask() -> tuple[int, dict[str, str], bytes]:
        target = urlsplit(url)
        connection = HTTPConnection(target.netloc, timeout=120)
        connection.request(method, path or target.path, headers={"Host": host or target.netloc})
        response = connection.getresponse()
        answer = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return answer

    return await asyncio.to_thread(ask)


def is_open(url: str) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) == 0


async def test_it_is_there_while_the_window_is_open(page: PairingPage, desk: PairingDesk) -> None:
    uri = desk.open("k7f3q2mzx5ab", ["192.168.1.20:8737", "[fd00::1]:8737"]).uri()
    url = await page.show(uri)
    status, headers, body = await get(url)
    assert status == 200
    assert f"'{html.escape(uri)}'" in body.decode()
    assert segno.make(uri, error="m").svg_inline(scale=6, border=4, light="white") in body.decode()
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers
    assert not re.search(rb"(src|href)=", body)
    for other in ({"path": "/"}, {"path": "/" + "x" * 22}, {"host": "evil.example"}, {"host": "localhost"}):
        answer = await get(url, **other)
        assert answer[0] == 404
        assert uri not in problem(answer)
    assert (await get(url, method="POST"))[0] == 405
    newer = await page.show(desk.open("k7f3q2mzx5ab", ["192.168.1.20:8737"]).uri())
    assert newer != url
    assert (await get(newer))[0] == 200
    desk.close()
    async with asyncio.timeout(120):
        while is_open(newer):
            await asyncio.sleep(0.01)


async def test_nothing_is_shown_once_the_window_is_closed(
    page: PairingPage, desk: PairingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the moment before the listener is gone."""
    monkeypatch.setattr(pages, "LOOK_S", 60.0)
    url = await page.show(desk.open("k7f3q2mzx5ab", ["192.168.1.20:8737"]).uri())
    assert (await get(url))[0] == 200
    desk.close()
    assert (await get(url))[0] == 404


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no chromium to look at the page with")
async def test_as_a_browser_shows_it(page: PairingPage, desk: PairingDesk, tmp_path: Path) -> None:
    """The picture in the window is the code, module by module."""
    uri = desk.open("k7f3q2mzx5ab", ["192.168.1.20:8737"], "k" * 43).uri()
    url, picture = await page.show(uri), tmp_path / "page.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=800,900"]
    command = [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    if not picture.exists():
        pytest.skip(f"this chromium shows nothing: {done.stderr.decode(errors='replace')[-200:]}")
    with av.open(str(picture)) as shown:
        dark = next(shown.decode(video=0)).to_ndarray(format="gray") < 128
    modules = np.array([[bool(each) for each in row] for row in segno.make(uri, error="m").matrix])
    side = 6 * len(modules)
    found = [
        (left, top)
        for top in range(len(dark) - side)
        for left in range(80)
        if np.array_equal(dark[top + 3 : top + side : 6, left + 3 : left + side : 6], modules)
    ]
    assert found
