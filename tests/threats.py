"""`python -m tests.threats [WORD]`: does each test of threats.toml notice when its defence is gone?

In a copy of the tree every defence is taken away in turn, and its test has to fail; before that all of them have to
pass. WORD: only threats whose row, text or test contains it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTEST = ("-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
TIMEOUT_S = 300


@dataclass(frozen=True)
class Threat:
    """`old`, once in `file`, is the defence; with `new` in its place `test` has to fail."""

    row: int
    what: str
    test: str
    file: str
    old: str
    new: str

    @property
    def without(self) -> str:
        """The file without the defence. Raises ValueError where that is not exactly one place."""
        text = (ROOT / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.file} has {text.count(self.old)} places like {self.old!r}")
        return text.replace(self.old, self.new)


def load() -> list[Threat]:
    """Every threat of threats.toml."""
    found = tomllib.loads((ROOT / "tests" / "threats.toml").read_text(encoding="utf-8"))["threat"]
    return [Threat(**each) for each in found]


def main(word: str = "") -> int:
    """Print a line for each; 1 where a test did not notice."""
    threats = [each for each in load() if word in f"{each.row} {each.what} {each.test}"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "demo-home-*", "build", "dist")
        shutil.copytree(ROOT, copy, ignore=ignored)
        if _run(copy, *sorted({each.test for each in threats})) != "passed":
            print("the tests do not pass as the tree is")
            return 1
        missed = 0
        for threat in threats:
            place = copy / threat.file
            whole = place.read_text(encoding="utf-8")
            place.write_text(threat.without, encoding="utf-8")
            state = _run(copy, threat.test)
            place.write_text(whole, encoding="utf-8")
            missed += state != "failed"
            print(
                f"{'noticed' if state == 'failed' else 'NOT NOTICED (' + state + ')':12} {threat.row:3}  {threat.what}"
            )
        print(f"{len(threats) - missed} of {len(threats)} noticed")
    return 1 if missed else 0


def _run(tree: Path, *tests: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *PYTEST, *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "failed"  # nothing ends what the defence would have ended
    if done.returncode == 0:
        return "passed"
    return "failed" if "\nFAILED " in done.stdout else f"broken: {done.stdout.strip().splitlines()[-1:]}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
