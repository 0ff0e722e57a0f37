"""Commands about recordings from devices: send, inbox."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from idiolect.errors import NotRunning, SyncError, UsageError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Numbers = Annotated[list[int] | None, typer.Argument(help="Numbers, as `idiolect inbox` lists them.")]
Device = Annotated[str, typer.Argument(help="A device's id or label, as `idiolect devices` lists it.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(send)
    inbox = typer.Typer(help="Look at what devices have sent, and decide.", invoke_without_command=True)
    inbox.callback()(list_waiting)
    for command in (take, refuse, review, trust, distrust, undo):
        inbox.command()(command)
    app.add_typer(inbox, name="inbox")


def send(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Recordings, or folders of them.")],
    text: Annotated[str, typer.Option(help="What is said, for one file; else NAME.txt, .srt or .vtt beside it.")] = "",
    url: Annotated[str | None, typer.Option(help="The service's address, where it cannot be found by itself.")] = None,
    service: Annotated[str, typer.Option(help="Which service, by label or id, where there are several.")] = "",
    pair: Annotated[str, typer.Option(metavar="TEXT", help="Be let in first, by the text of a pairing code.")] = "",
    json: Json = False,
) -> None:
    """Send recordings and their texts to the computer that trains. What it has already is not sent again."""
    from daemon.terminal import err, out, plain, print_json
    from idiolect.pairing import Pairings, scan
    from idiolect.sending import RecordingMeta, Sender, text_beside

    found = list(_recordings(files))
    if text and len(found) != 1:
        raise UsageError("a text belongs to one recording", "name one file with --text")
    if pair:
        Pairings().save(scan(pair))
    sender = Sender(Pairings().choose(service, url or ""), url=url)
    sent, refused = [], []
    for path in found:
        try:
            said = RecordingMeta(text=text) if text else text_beside(path)
            received = sender.send(path, said)
        except (SyncError, UsageError) as error:
            if type(error) not in {SyncError, UsageError}:  # the next one would fare no better
                raise
            refused.append(str(path))
            err.print(f"{plain(error.message)}", soft_wrap=True)
            continue
        sent.append({"file": str(path), **received.model_dump(), "text": said is not None})
        if not json:
            note = "" if said else ", without text"
            out.print(f"{plain(str(path))}: {_STATES[received.state]}{note}", soft_wrap=True)
    if json:
        print_json({"sent": sent, "not_taken": refused})
    if refused:
        raise typer.Exit(4)


def list_waiting(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also what was decided already.")] = False,
    json: Json = False,
) -> None:
    """List the recordings that wait for a decision; nothing is learned from them before."""
    from daemon.terminal import out, print_json, table

    if context.invoked_subcommand is not None:
        return
    found = _ask("list", all=everything)
    if json:
        print_json(found)
        return
    if not found["recordings"]:
        out.print("nothing waits in the inbox")
        return
    rows = [
        [
            str(each["number"]),
            *([each["state"]] if everything else []),
            each["device_label"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(each["received_s"])),
            f"{each['duration_s']:.1f} s",
            " ".join((each["text"] or "– no text yet –").split())[:80],
        ]
        for each in found["recordings"]
    ]
    table("", ["number", *(["state"] if everything else []), "device", "received", "lasts", "text"], rows)
    if not everything:
        out.print("take some in: idiolect inbox take NUMBER…, or go through them: idiolect inbox review")


def take(
    numbers: Numbers = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait and have a text.")] = False,
    text: Annotated[str, typer.Option(help="What is really said, for one recording.")] = "",
) -> None:
    """Put recordings into the recordings folder; from then on they are learned from."""
    from daemon.terminal import out, plain

    for each in _ask("take", numbers=_named(numbers, everything), all=everything, text=text)["recordings"]:
        out.print(f"{each['number']}: {plain(each['listen'])}", soft_wrap=True)


def refuse(
    numbers: Numbers = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
) -> None:
    """Throw recordings away."""
    from daemon.terminal import out

    done = _ask("refuse", numbers=_named(numbers, everything), all=everything)["recordings"]
    out.print(f"{len(done)} thrown away")


def review() -> None:
    """Go through what waits, one by one."""
    from daemon.terminal import out, plain

    for each in _ask("list")["recordings"]:
        out.print(f"\n{each['number']} from {plain(each['device'])}, {each['duration_s']:.1f} s", highlight=False)
        out.print(f"  listen: {plain(each['listen'])}", soft_wrap=True)
        out.print(f"  text:   {plain(each['text'] or '– none yet –')}", soft_wrap=True)
        answer = typer.prompt("  take in (y), with another text (t), throw away (n), later (l)", default="l")
        if answer == "t":
            _ask("take", numbers=[each["number"]], text=typer.prompt("  what is said"))
        elif answer in {"y", "n"}:
            _ask("take" if answer == "y" else "refuse", numbers=[each["number"]])


def trust(device: Device) -> None:
    """Take in what this device sends from now on without asking."""
    from daemon.terminal import out

    done = _ask("trust", device=device, trusted=True)
    out.print(f"{done['device_id']} is trusted; take it back with: idiolect inbox distrust {done['device_id']}")


def distrust(device: Device) -> None:
    """Ask again before anything that this device sends is learned from."""
    from daemon.terminal import out

    out.print(f"{_ask('trust', device=device, trusted=False)['device_id']} is asked about again")


def undo(device: Device, json: Json = False) -> None:
    """Take back everything that came from a device: out of the folder, out of the next training."""
    from daemon.terminal import out, plain, print_json

    done = _ask("undo", device=device)
    if json:
        print_json(done)
        return
    out.print(f"{done['undone']} recordings of {done['device_id']} taken back; it is trusted no longer")
    for path in done["copies"]:
        out.print(f"the same sound also lies in {plain(path)}", soft_wrap=True)
    if done["runs"]:
        names = ", ".join(f"{run['id']} ({run['release'] or run['tier']})" for run in done["runs"])
        out.print(f"models that have learned from them: {names}; make one without them: idiolect train")


_STATES = {"waiting": "sent; it waits to be looked at there", "taken": "taken in", "refused": "was refused there"}


def _ask(action: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """The running daemon, else the inbox itself."""
    from daemon.config import load
    from daemon.paths import Paths
    from daemon.sync.control import ask

    paths = Paths.at(None)
    try:
        return ask(paths, "inbox", action=action, **arguments)
    except NotRunning:
        from daemon.rooms import Rooms
        from daemon.sync.review import review

        with contextlib.ExitStack() as closing:
            closing.enter_context(paths.locked())
            rooms = closing.enter_context(Rooms.opened(paths, load(paths.config_file)))
            return review(rooms, {"action": action, **arguments})


def _named(numbers: list[int] | None, everything: bool) -> list[int]:
    if not numbers and not everything:
        raise UsageError("which ones?", "name their numbers (`idiolect inbox` lists them), or say --all")
    return numbers or []


def _recordings(files: Iterable[Path]) -> Iterable[Path]:
    from training.clips import find_recordings

    for path in files:
        if path.is_dir():
            yield from find_recordings(path)
        else:
            yield path
