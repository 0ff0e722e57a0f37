"""`idiolect check` for people."""

from __future__ import annotations

import os

from daemon.intake.check import Report
from daemon.terminal import out, plain, table


def show_report(report: Report) -> None:
    """Every recording of which there is something to say, then the sums."""
    for folder, reason in report.unreadable.items():
        out.print(f"[yellow]![/] {plain(folder)}: cannot be looked into: {plain(reason)}")
    for path in report.conflicts:
        out.print(f"[yellow]![/] {plain(path)}: a conflict copy, not learned from")
    common = os.path.commonpath([os.path.dirname(r.path) for r in report.recordings] or [os.sep])  # noqa: PTH120
    rows = [
        [os.path.relpath(r.path, common).replace("\n", "�"), r.state, r.reason] for r in report.recordings if r.reason
    ]
    if rows:
        table("", ["recording", "", "what is wrong"], rows)
        out.print()
    counts = report.counts()
    ready_s = sum(r.duration_s or 0.0 for r in report.recordings if r.state == "ready")
    said = ", ".join(f"{counts[kind]} {kind}" for kind in ("ready", "waiting", "rejected", "duplicate"))
    out.print(f"{said}; {counts['remarked']} of the ready with a remark; {ready_s / 60:.1f} minutes ready")
