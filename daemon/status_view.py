"""`idiolect status` and `idiolect runs` for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daemon.lines import estimate_line, megabytes
from daemon.terminal import out, percent, plain, table

if TYPE_CHECKING:
    from daemon.coverage import Coverage

SHOWN = 8  # rejected or waiting recordings listed by name


def show_status(status: dict[str, Any]) -> None:
    """The whole of `idiolect status --json`, readable."""
    for warning in status["warnings"]:
        out.print(f"[yellow]![/] {plain(warning)}")
    counts = status["recordings"]
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "ready")
    _line("recordings", f"{said} ({status['hours'] * 60:.1f} minutes ready)")
    _line("folder", ", ".join(status["recordings_folders"]))
    job = status["job"]
    if job:
        left = f", {job['eta_s']:.0f} s left" if job["eta_s"] is not None else ""
        _line("now", f"{job['run']}: {job['stage']} {job['done']:g}/{job['total']:g} {job['unit']}{left}")
        if job["estimate"]:
            _line("", estimate_line(job["estimate"]))
    _line("next", status["next"]["reason"])
    if status["server"]["urls"]:
        _line("serving", ", ".join(status["server"]["urls"]))
    _line("models", status["models_folder"])
    _recordings("rejected", status["rejections"])
    _recordings("waiting", status["waiting"])
    _recordings("remarks", status["remarks"])
    if status["runs"]:
        out.print()
        show_runs(status["runs"][:SHOWN])
    if status["releases"]:
        out.print()
        _show_releases(status["releases"])


def show_runs(runs: Sequence[dict[str, Any]]) -> None:
    """Trainings, newest first."""
    if not runs:
        out.print("no training yet")
        return
    rows = []
    for run in runs:
        summary = run["summary"] or {}
        wer = f"{percent(summary['wer_stock'])} → {percent(summary['wer_tuned'])}" if "wer_tuned" in summary else ""
        rows.append([run["id"], run["tier"], run["state"], wer, run["release"] or "", run["reason"]])
    table("Trainings", ["run", "tier", "state", "WER", "release", "why"], rows)


def show_one_run(run: dict[str, Any]) -> None:
    """One training, with its result."""
    _line("run", f"{run['id']}, tier {run['tier']} from {run['base']}: {run['state']}")
    if run["reason"]:
        _line("why", run["reason"])
    _line("folder", run["folder"])
    result = run["result"]
    if not result:
        return
    _line(
        "trained on",
        f"{result['train_clips']} clips, {result['train_audio_s'] / 60:.1f} minutes, {result['steps']} steps",
    )
    _line("took", f"{result['train_s']:.0f} s")
    _line("measured on", f"{result['held_out_clips']} held-out clips, {result['held_out_words']} words")
    versus = result["versus_stock"]
    _line("WER", f"{percent(result['stock']['wer'])} → {percent(result['tuned']['wer'])}")
    _line(
        "",
        f"{versus['mean'] * 100:+.1f} points (95 % interval {versus['low'] * 100:+.1f} to {versus['high'] * 100:+.1f})",
    )
    if result["skipped"]:
        _line("left out", f"{len(result['skipped'])} of the clips")
    for line in result["skipped"][:SHOWN]:
        _line("", line)
    rows = [
        [
            made["profile"],
            f"{made['format']} {made['quantization']}",
            megabytes(sum(file["size_bytes"] for file in made["files"])),
            percent(made["scores"]["wer"]) if made["scores"] else "–",
            f"{made['speed_x']:.0f} ×",
            made["error"] or made["runtime"],
        ]
        for made in result["artifacts"]
    ]
    out.print()
    table("Exports", ["profile", "file", "size", "WER", "speed", "checked in"], rows)
    if result["terms"]:
        out.print()
        rows = [
            [term["term"], str(term["occurrences"]), str(term["stock"]), str(term["tuned"])] for term in result["terms"]
        ]
        table("Words the stock model missed", ["word", "said", "heard by stock", "heard now"], rows)


def show_coverage(found: Coverage) -> None:
    """The user's terms, the neediest first."""
    measured = f"measured on {found.run} ({found.tier})" if found.run else "no training has measured them yet"
    rows = [
        [
            each.term.text,
            each.term.group,
            str(each.recorded),
            f"{each.heard_by_stock}/{each.said}" if each.said else "–",
            f"{each.heard_now}/{each.said}" if each.said else "–",
        ]
        for each in found.terms
    ]
    table(f"Your words, {measured}", ["term", "group", "recorded", "heard by stock", "heard now"], rows)


def _show_releases(releases: Sequence[dict[str, Any]]) -> None:
    rows = [
        [
            release["id"],
            release["tier"],
            ", ".join(release["channels"]),
            f"{percent(release['wer_stock'])} → {percent(release['wer_tuned'])}",
            ", ".join(f"{made['profile']} {megabytes(made['size_bytes'])}" for made in release["artifacts"]),
            ", ".join(sorted({made["checked"] for made in release["artifacts"]})),
        ]
        for release in reversed(releases)
    ]
    table("Releases", ["release", "tier", "channel", "WER", "files", "checked"], rows)


def _recordings(state: str, recordings: Sequence[dict[str, str]]) -> None:
    for recording in recordings[:SHOWN]:
        _line(state, f"{recording['path']}: {recording['reason']}")
    if len(recordings) > SHOWN:
        _line("", f"… and {len(recordings) - SHOWN} more; all of them: idiolect status --json")


def _line(name: str, text: str) -> None:
    out.print(f"[dim]{name:<12}[/] {plain(text.replace(chr(10), ' '))}", soft_wrap=True)
