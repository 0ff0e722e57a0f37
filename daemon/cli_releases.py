"""Commands about what is published: releases, rollback, withdraw, pin, unpin, rotate-keys."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from idiolect.errors import NotRunning

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (releases, rollback, withdraw, pin, unpin):
        app.command()(command)
    app.command("rotate-keys")(rotate_keys)


def releases(json: Json = False) -> None:
    """List what is published, newest first, and what each channel offers."""
    _show(_act("releases"), json)


def rollback(
    tier: Annotated[str, typer.Argument(help="The model's size, as `idiolect releases` lists it.")],
    release: Annotated[str, typer.Argument(help="Go back to this one; else to the one before.")] = "",
    json: Json = False,
) -> None:
    """Offer an older release again, as news: devices take it with their next pull."""
    _show(_act("rollback", tier=tier, release=release), json)


def withdraw(
    release: Annotated[str, typer.Argument(help="A release's id, as `idiolect releases` lists it.")],
    json: Json = False,
) -> None:
    """Never offer a release again, and offer the one before it where it was the newest."""
    _show(_act("withdraw", release=release), json)


def pin(
    device: Annotated[str, typer.Argument(help="A device's id or label, as `idiolect devices` lists it.")],
    release: Annotated[str, typer.Argument(help="A release's id, as `idiolect releases` lists it.")],
    json: Json = False,
) -> None:
    """Let one device stay at a release, whatever the others get."""
    _show(_act("pin", device=device, release=release), json)


def unpin(
    device: Annotated[str, typer.Argument(help="A device's id or label, as `idiolect devices` lists it.")],
    json: Json = False,
) -> None:
    """Let a device follow what is published again."""
    _show(_act("unpin", device=device), json)


def rotate_keys(
    root: Annotated[bool, typer.Option("--root", help="Make a new root key as well.")] = False,
    json: Json = False,
) -> None:
    """Make a new key to sign with; paired devices follow by themselves, also after a restored backup."""
    from daemon.terminal import out, print_json

    found = _act("rotate-keys", root=root)
    print_json(found) if json else out.print("The keys are new; what is published is signed with them.")


def _act(command: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """By the running daemon, else on the store itself, with the home's lock: only one process may publish."""
    from daemon.paths import Paths
    from daemon.sync.control import ask

    paths = Paths.at(None)
    try:
        return ask(paths, command, **arguments)
    except NotRunning:
        from daemon.sync.devices import Devices
        from daemon.sync.identity import Identity
        from daemon.sync.publishing import act
        from daemon.sync.releases import ReleaseStore

        with paths.locked(), contextlib.closing(Devices(paths.devices_db)) as devices:
            return act(ReleaseStore(paths.store, Identity(paths.keys).id), devices, command, arguments)


def _show(found: dict[str, Any], json: bool) -> None:
    from daemon.lines import megabytes
    from daemon.terminal import out, percent, print_json, table

    if json:
        print_json(found)
        return
    if not found["releases"]:
        out.print("nothing has been published yet")
        return
    rows = [
        [
            each["id"],
            each["tier"],
            "withdrawn" if each["withdrawn"] else ", ".join([*each["channels"], *each["pinned"]]),
            each["created"][:10],
            f"{percent(each['wer_stock'])} → {percent(each['wer_tuned'])}",
            megabytes(each["size_bytes"]),
            ", ".join(each["profiles"]),
        ]
        for each in found["releases"]
    ]
    table(f"manifest {found['version']}", ["release", "tier", "offered to", "made", "WER", "size", "profiles"], rows)
