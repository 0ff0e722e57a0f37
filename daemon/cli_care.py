"""Commands that look after the daemon: doctor, service, reload, backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
MARKS = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "bad": "[bold red]bad [/]"}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (doctor, reload, backup, restore):
        app.command()(command)
    service = typer.Typer(help="Have the daemon started with this computer, or no more.", no_args_is_help=True)
    service.command("install")(install_service)
    service.command("uninstall")(uninstall_service)
    service.command("status")(show_service)
    app.add_typer(service, name="service")


def doctor(json: Json = False) -> None:
    """Look whether everything is in place, and say how to mend what is not."""
    from daemon.doctor import examine, to_json
    from daemon.paths import Paths
    from daemon.terminal import out, plain, print_json

    findings = []
    for finding in examine(Paths.at(None)):
        findings.append(finding)
        if json:
            continue
        out.print(f"{MARKS[finding.state]}  {finding.about:<12} {plain(finding.found)}", soft_wrap=True)
        if finding.fix and finding.state != "ok":
            out.print(f"      {'':<12} → {plain(finding.fix)}", soft_wrap=True)
    found = to_json(findings)
    if json:
        print_json(found)
    if not found["ok"]:
        raise typer.Exit(1)


def reload() -> None:
    """Let the running daemon read config.toml again."""
    from daemon.paths import Paths
    from daemon.sync.control import ask

    ask(Paths.at(None), "reload")
    typer.echo("the daemon lives by the new settings now; see: idiolect status")


def install_service() -> None:
    """Write the service for this user, start it, and start it again with every login."""
    from daemon.paths import Paths
    from daemon.service import installer

    for line in installer(Paths.at(None)).install():
        typer.echo(line)


def uninstall_service() -> None:
    """Stop the service and remove it; recordings, models and settings stay, and are named."""
    from daemon.paths import Paths
    from daemon.service import installer

    for line in installer(Paths.at(None)).uninstall():
        typer.echo(line)


def show_service() -> None:
    """What the system's service manager says of it."""
    from daemon.paths import Paths
    from daemon.service import installer

    installed, said = installer(Paths.at(None)).status()
    typer.echo(said)
    if not installed:
        raise typer.Exit(3)


def backup(
    file: Annotated[Path, typer.Argument(help="Archive to write, as idiolect-backup.tar.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Keep library, keys, settings and published models in one file; also while the daemon runs."""
    from daemon.backup import save
    from daemon.lines import megabytes
    from daemon.paths import Paths

    saved = save(Paths.at(None), file, force=force)
    typer.echo(f"{file}: {saved.files} files, {megabytes(saved.size_bytes)}. It is private: it holds what you said.")
    typer.echo("Recordings are not in it: they are yours to keep.")


def restore(file: Annotated[Path, typer.Argument(help="What `idiolect backup` wrote.")]) -> None:
    """Put a backup into a home that is empty yet."""
    from daemon.backup import load
    from daemon.paths import Paths

    paths = Paths.at(None)
    loaded = load(paths, file)
    typer.echo(f"{loaded.files} files restored into {paths.state} and {paths.config_file.parent}")
