"""Commands about the daemon: init, run, status, runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (init, run, status):
        app.command()(command)
    runs = typer.Typer(help="List trainings, or show one.", invoke_without_command=True)
    runs.callback()(list_runs)
    runs.command("show")(show_run)
    app.add_typer(runs, name="runs")


def init() -> None:
    """Write a commented config.toml and make the folders."""
    from daemon.home import initialise
    from daemon.paths import Paths
    from daemon.terminal import out

    for line in initialise(Paths.at(None)):
        out.print(line, markup=False, soft_wrap=True)


def run() -> None:
    """Be the daemon: watch, train, publish and serve, until Ctrl-C."""
    from daemon.config import load
    from daemon.paths import Paths
    from daemon.run_view import RunView

    with _no_authorities():
        from daemon.run import Daemon

    paths = Paths.at(None)
    config = load(paths.config_file)
    paths.make()
    with RunView(paths) as view:
        Daemon(paths, config, on_event=view.show).run()


def status(json: Json = False) -> None:
    """Recordings, trainings, releases, and what happens next."""
    from daemon.status_view import show_status
    from daemon.terminal import print_json

    found = find_status()
    print_json(found) if json else show_status(found)


def list_runs(context: typer.Context, json: Json = False) -> None:
    """List trainings, newest first."""
    if context.invoked_subcommand is None:
        from daemon.status_view import show_runs
        from daemon.terminal import print_json

        found = find_status()["runs"]
        print_json(found) if json else show_runs(found)


def show_run(
    number: Annotated[str, typer.Argument(help="A run's number or id, as `idiolect runs` lists it.")],
    json: Json = False,
) -> None:
    """Everything about one training."""
    from daemon.home import describe_run
    from daemon.paths import Paths
    from daemon.status_view import show_one_run
    from daemon.terminal import print_json

    found = describe_run(Paths.at(None), find_status()["runs"], number)
    print_json(found) if json else show_one_run(found)


def find_status() -> dict[str, Any]:
    """From the running daemon, else from the library."""
    from daemon.config import load
    from daemon.paths import Paths
    from daemon.sync.control import ask
    from idiolect.errors import NotRunning, UsageError

    paths = Paths.at(None)
    try:
        return ask(paths, "status")
    except NotRunning:
        from daemon.status import offline_status

        if not (paths.config_file.exists() or paths.state.exists()):
            raise UsageError(
                f"there is no idiolect home at {paths.config_file.parent}", "make one: idiolect init"
            ) from None
        config = load(paths.config_file)
        paths.make()
        return offline_status(paths, config)


@contextlib.contextmanager
def _no_authorities() -> Iterator[None]:
    # aiohttp loads the system's certificate authorities as it is imported, for its client, which is not used here:
    # 1.7 MB for as long as the daemon lives, and a tenth of its start.
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # man 3 SSL_CTX_set_default_verify_paths
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
