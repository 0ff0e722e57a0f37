"""run.json and result.json come back as they were written."""

from __future__ import annotations

import stat
from pathlib import Path

from daemon.work.spec import JobClip, JobSpec, load_result, load_spec, save_spec


def test_a_spec_comes_back_and_is_private(tmp_path: Path) -> None:
    clip = JobClip(path=Path("/a b/ש.wav"), duration_s=2.0, pcm_sha256="0" * 64, text="say\nit", side="train")
    spec = JobSpec(
        run_id="run-0001", tier="nano", base="nano", language="en", clips=(clip,), profiles=(), cache=tmp_path
    )
    save_spec(tmp_path, spec)
    assert load_spec(tmp_path) == spec
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600
    assert load_result(tmp_path) is None
