"""Commands about devices: profiles, pull, demo."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from idiolect.errors import HookFailed, UsageError
from idiolect.files import is_safe_relpath

if TYPE_CHECKING:
    from idiolect.client import Client, Pulled
    from idiolect.hook import Hook
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
        what += f"{profile.min_speed_x:g} × real time{'' if profile.enforce_speed else ' (else a warning)'}, "
        what += f"audio context {profile.audio_context}"
        out.print(f"  {what}\n  [dim]{plain(profile.description, lines=True)}[/]\n")


def pull(
    profile: Annotated[str, typer.Option(help="Device profile to pull for.")],
    into: Annotated[Path | None, typer.Option(help="Folder that always holds the newest model.")] = None,
    url: Annotated[str | None, typer.Option(help="The service's address, where it cannot be found by itself.")] = None,
    service: Annotated[str, typer.Option(help="Which service, by label or id, where there are several.")] = "",
    pair: Annotated[str, typer.Option(metavar="TEXT", help="Be let in first, by the text of a pairing code.")] = "",
    join: Annotated[str, typer.Option(metavar="ADDRESS", help="Be let in first, by comparing six digits.")] = "",
    channel: Annotated[str, typer.Option(help="beta: try releases before the other devices do.")] = "stable",
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and get every new model as it is published.")] = False,
    hook: Annotated[str, typer.Option(metavar="PROGRAM", help="Run this after a new model has come.")] = "",
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARG...]", help="What PROGRAM is run with; there is no shell.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the service on the network and get the newest model. It has to have let this device in, once.

    PROGRAM learns what came from IDIOLECT_RELEASE, IDIOLECT_TIER, IDIOLECT_PROFILE, IDIOLECT_FOLDER, IDIOLECT_FILE and
    IDIOLECT_PREVIOUS in its environment.

    Exit codes: 0 the newest model is there; 2 wrong use; 4 no service or no such model; 5 what came was not believed
    (changed, older, expired); 6 not let in; 7 the model is there and PROGRAM failed; 130 stopped.
    """
    from daemon.paths import Paths
    from daemon.terminal import progress_reporter
    from idiolect.client import Client
    from idiolect.hook import Hook

    if "/" in profile or not is_safe_relpath(profile):
        raise UsageError(f"no profile is called {profile!r}", "see: idiolect profiles")
    folder = into or Paths.at(None).models / profile
    if arguments and not hook:
        raise UsageError(f"{arguments[0]!r} is too much", "arguments are those of --hook PROGRAM")
    after = Hook([hook, *(arguments or ())]) if hook else None
    client = Client(folder, profile, url=url, pairing=_paired(pair, join), service=service, channel=channel)
    if watch:
        _stay(client, after, json)
        return
    with progress_reporter() as reporter:
        client.on_busy = reporter.note
        reporter.stage(f"pull {profile}")
        pulled = client.pull(lambda done, total: reporter.progress(done, total, "bytes"))
    _show(pulled, json)
    client.settle(pulled, after)


def _stay(client: Client, hook: Hook | None, json: bool) -> None:
    from daemon.terminal import err, plain, show_error
    from idiolect.watch import watch

    shown: list[Pulled] = []

    def pulled(now: Pulled) -> None:
        if now.changed or not shown:
            shown[:] = [now]
            _show(now, json)
        try:
            client.settle(now, hook)
        except HookFailed as failure:
            show_error(failure)

    client.on_busy = lambda said: err.print(plain(said))
    watch(client, pulled, lambda error, _: show_error(error))


def _show(pulled: Pulled, json: bool) -> None:
    from daemon.lines import megabytes
    from daemon.terminal import out

    files = [str(file) for file in pulled.files]
    if json:
        said = {"release": pulled.release_id, "tier": pulled.tier, "changed": pulled.changed}
        print(dumps(said | {"files": files, "url": pulled.url}, ensure_ascii=False), flush=True)
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
