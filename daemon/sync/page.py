"""The pairing code as a page in this computer's own browser, for who has no terminal that can show it.

On loopback only, under an address that nobody can guess and only the command tells that opened the window; it is gone
when the window is closed. Nothing can be decided there, and the page loads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import secrets

from aiohttp import web

from daemon.sync import guard
from daemon.sync.pairing import PairingDesk

LOOK_S = 0.5
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Let a device in</title>
<h1>Let a device in</h1>
<p>Scan this with the device, within five minutes. It lets one device in, once.</p>
{code}
<p>Or paste this on another computer:</p>
<textarea readonly rows="6" cols="72">idiolect pull --profile PROFILE --pair '{uri}'</textarea>
</html>
"""


class PairingPage:
    """The page of `desk`'s window, while that is open."""

    def __init__(self, desk: PairingDesk) -> None:
        self._desk = desk
        self._watching: asyncio.Task[None] | None = None

    async def show(self, uri: str) -> str:
        """Show `uri` in place of any other; gives the page's address. Raises OSError."""
        await self.hide()
        path = f"/{secrets.token_urlsafe(16)}"
        page = _page(uri)

        async def answer(request: web.Request) -> web.StreamResponse:
            host = f"127.0.0.1:{port}"
            if not self._desk.is_open or request.headers.getall("Host", []) != [host]:
                raise web.HTTPNotFound(text="this is over; run `idiolect pair` again")
            return web.Response(text=page, content_type="text/html", headers=HEADERS)

        app = web.Application(middlewares=[guard.problems])
        app.on_response_prepare.append(guard.finish_headers)
        app.router.add_get(path, answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        except OSError:
            await runner.cleanup()
            raise
        port = runner.addresses[0][1]
        self._watching = asyncio.create_task(self._until_closed(runner))
        return f"http://127.0.0.1:{port}{path}"

    async def hide(self) -> None:
        """End it."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _until_closed(self, runner: web.AppRunner) -> None:
        try:
            while self._desk.is_open:
                await asyncio.sleep(LOOK_S)
        finally:
            await runner.cleanup()


def _page(uri: str) -> str:
    import segno

    code = segno.make(uri, error="m").svg_inline(scale=6, border=4, light="white")
    return PAGE.format(code=code, uri=html.escape(uri))
