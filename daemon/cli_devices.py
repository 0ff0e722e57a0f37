"""Commands about who may pull: pair, devices, revoke."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any

import typer

from idiolect.errors import NotPaired, NotRunning

POLL_S = 0.5
FETCH_S = 60.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (pair, devices, revoke):
        app.command()(command)


def pair(
    show: Annotated[
        bool, typer.Option("--show", help="Print the code's text and end; the window stays open for five minutes.")
    ] = False,
    plain: Annotated[
        str, typer.Option(metavar="LABEL", help="Make a token for the port without encryption, for an app.")
    ] = "",
    json: Json = False,
) -> None:
    """Let one device in: show a QR code to scan, or compare six digits with it. The daemon must be running."""
    from daemon.paths import Paths
    from daemon.sync.control import ask
    from daemon.terminal import out, print_json

    paths = Paths.at(None)
    if plain:
        made = ask(paths, "pair", action="plain", label=plain)
        _show_plain(made) if not json else print_json(made)
        return
    opened = ask(paths, "pair", action="open")
    if show or json:
        print_json(opened) if json else out.print(opened["uri"], markup=False, soft_wrap=True)
        return
    _show_code(opened)
    try:
        paired = _wait_for_device()
    finally:
        ask(paths, "pair", action="close")
    out.print(f"Let in: {paired['label']} ({paired['platform']}), {paired['id']}", markup=False)


def devices(json: Json = False) -> None:
    """List the devices that were let in, and when each was last here."""
    from daemon.terminal import out, print_json, table

    found = _devices()
    if json:
        print_json(found)
        return
    if not found:
        out.print("no device has been let in; run: idiolect pair")
        return
    rows = [
        [
            *(each[key] for key in ("id", "label", "platform")),
            _state(each),
            *(_when(each[key]) for key in ("created_s", "last_seen_s")),
            ", ".join(f"{held['release']}{' (failed)' if held['loaded'] is False else ''}" for held in each["holds"]),
        ]
        for each in found
    ]
    table("", ["id", "label", "platform", "state", "let in", "last seen", "holds"], rows)


def revoke(
    device: Annotated[str, typer.Argument(help="A device's id or label, as `idiolect devices` lists it.")],
) -> None:
    """Shut a device out, at once: its token is worth nothing any more, and what it is fetching breaks off."""
    from daemon.paths import Paths
    from daemon.sync.control import ask
    from daemon.terminal import out, plain

    paths = Paths.at(None)
    try:
        shut = ask(paths, "revoke", name=device)["device"]
    except NotRunning:
        from daemon.sync.devices import Devices

        with paths.locked(), contextlib.closing(Devices(paths.devices_db)) as known:
            found = known.revoke(device)
        shut = {"id": found.id, "label": found.label}
    out.print(f"Shut out: {plain(shut['label'])} ({shut['id']})")


def _devices() -> list[dict[str, Any]]:
    """From the running daemon, else from its list."""
    from daemon.paths import Paths
    from daemon.sync.control import ask

    paths = Paths.at(None)
    try:
        found: list[dict[str, Any]] = ask(paths, "devices")["devices"]
        return found
    except NotRunning:
        from daemon.sync.devices import Devices

        with paths.locked(), contextlib.closing(Devices(paths.devices_db)) as known:
            return known.describe()


def _show_code(opened: dict[str, Any]) -> None:
    import sys

    import segno

    from daemon.terminal import out

    out.print("Scan this with the device, within five minutes:\n")
    segno.make(opened["uri"], error="m").terminal(out=sys.stdout, compact=True)
    lines = [
        *([f"\nor from a browser here:  {opened['page']}"] if opened["page"] else []),
        f"\nor on another computer:  idiolect pull --profile PROFILE --pair '{opened['uri']}'",
        f"or without the code:     idiolect pull --profile PROFILE --join {opened['urls'][0]}",
        "                         and compare the six digits that it shows with those that appear here.",
    ]
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)
    if all("127.0.0.1" in url or "[::1]" in url for url in opened["urls"]):
        out.print("The service can be reached from this computer only: see [server] bind in config.toml.", markup=False)


def _wait_for_device() -> dict[str, Any]:
    """The device that was let in. Raises NotPaired where the window closes before."""
    from daemon.paths import Paths
    from daemon.sync.control import ask
    from daemon.terminal import out, plain

    paths = Paths.at(None)
    fetched_by_s = 0.0  # a device that was agreed to still has to come for its token
    while True:
        seen = ask(paths, "pair", action="look")
        if seen["paired"]:
            paired: dict[str, Any] = seen["paired"]
            return paired
        for each in seen["asking"]:
            out.print(f"\n{plain(each['label'])} ({plain(each['platform'])}) asks to be let in.")
            digits = f"{each['digits'][:3]} {each['digits'][3:]}"
            agreed = typer.confirm(f"Does it show  {digits}  now, and is it yours?", default=False)
            seen = ask(paths, "pair", action="decide", pair_id=each["pair_id"], agreed=agreed)
            if agreed:
                fetched_by_s = time.monotonic() + FETCH_S
                break
        if not seen["open"] and time.monotonic() > fetched_by_s:
            raise NotPaired("nobody was let in; the window is closed again", "run `idiolect pair` again")
        time.sleep(POLL_S)


def _show_plain(made: dict[str, Any]) -> None:
    from daemon.terminal import out

    out.print(f"Address: {', '.join(made['urls'])}", markup=False, soft_wrap=True)
    out.print(f"Token:   {made['token']}", markup=False, soft_wrap=True)
    out.print(
        "It is shown only now, reads models only, and ends after 90 days. Without encryption whoever listens on your "
        f"network can take it; shut it with: idiolect revoke {made['device']['id']}",
        markup=False,
        soft_wrap=True,
    )


def _state(device: dict[str, Any]) -> str:
    if device["revoked_s"] is not None:
        return "shut out"
    if device["expires_s"] is not None and device["expires_s"] <= time.time():
        return "expired"
    return "without encryption" if device["compat"] else "let in"


def _when(at_s: int | None) -> str:
    return "–" if at_s is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
