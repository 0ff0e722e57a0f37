"""Commands about devices: profiles, pull, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from idiolect.errors import UsageError
from idiolect.files import is_safe_relpath

if TYPE_CHECKING:
    from idiolect.pairing import Pairing

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (profiles, pull, demo):
        app.command()(command)


def profiles(json: Json = False) -> None:
    """List the device profiles, and why each is as it is."""
    from daemon.home import known_profiles
    from daemon.paths import Paths
    from daemon.terminal import out, plain, print_json

    found = known_profiles(Paths.at(None))
    if json:
        print_json([profile.model_dump() for profile in found.values()])
        return
    for profile in found.values():
        out.print(f"[bold]{profile.name}[/]  {plain(profile.title)}")
        what = f"{profile.tier}, {profile.format} {profile.quantization}, at most {profile.max_size_mb:g} MB, "
        what += f"WER at most {profile.max_wer_loss * 100:g} points over the checkpoint, "
        what += f"audio context {profile.audio_context}"
        out.print(f"  {what}\n  [dim]{plain(profile.description, lines=True)}[/]\n")


def pull(
    profile: Annotated[str, typer.Option(help="Device profile to pull for.")],
    into: Annotated[Path | None, typer.Option(help="Folder that always holds the newest model.")] = None,
    url: Annotated[str | None, typer.Option(help="The service's address, where it cannot be found by itself.")] = None,
    service: Annotated[str, typer.Option(help="Which service, by label or id, where there are several.")] = "",
    pair: Annotated[str, typer.Option(metavar="TEXT", help="Be let in first, by the text of a pairing code.")] = "",
    join: Annotated[str, typer.Option(metavar="ADDRESS", help="Be let in first, by comparing six digits.")] = "",
    json: Json = False,
) -> None:
    """Find the service on the network and get the newest model. It has to have let this device in, once."""
    from daemon.paths import Paths
    from daemon.terminal import ProgressReporter, megabytes, out, print_json
    from idiolect.client import Client

    if "/" in profile or not is_safe_relpath(profile):
        raise UsageError(f"no profile is called {profile!r}", "see: idiolect profiles")
    folder = into or Paths.at(None).models / profile
    pairing = _paired(pair, join)
    with ProgressReporter() as reporter:
        reporter.stage(f"pull {profile}")
        pulled = Client(folder, profile, url=url, pairing=pairing, service=service).pull(
            lambda done, total: reporter.progress(done, total, "bytes")
        )
    files = [str(file) for file in pulled.files]
    if json:
        print_json(
            {
                "release": pulled.release_id,
                "tier": pulled.tier,
                "changed": pulled.changed,
                "files": files,
                "url": pulled.url,
            }
        )
        return
    state = "new" if pulled.changed else "already the newest"
    out.print(
        f"{pulled.release_id} ({pulled.tier}, {megabytes(pulled.size_bytes)}) from {pulled.url}: {state}", markup=False
    )
    for file in files:
        out.print(f"  {file}", markup=False, soft_wrap=True)


def _paired(code: str, address: str) -> Pairing | None:
    """The pairing that was just made and is kept from now on, where one was asked for."""
    from daemon.terminal import err
    from idiolect.pairing import Pairings, join, scan

    if not code and not address:
        return None
    if code:
        pairing = scan(code)
    else:
        url = address if "://" in address else f"https://{address}"
        pairing = join(
            url, lambda digits: err.print(f"Compare with the other computer:  {digits[:3]} {digits[3:]}", markup=False)
        )
    Pairings().save(pairing)
    return pairing


def demo(
    voice: Annotated[Literal["synthetic", "human"], typer.Option(help="Whose recordings to learn from.")] = "synthetic",
    folder: Annotated[Path | None, typer.Option(help="Where the demo's home goes; it is made anew.")] = None,
) -> None:
    """Show the main job on what ships with idiolect, offline."""
    from daemon.demo import run_demo

    raise typer.Exit(run_demo(voice, folder or Path(f"demo-home-{voice}")))
