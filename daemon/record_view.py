"""`idiolect record` in the terminal: a sentence, Enter, the voice, Enter, keep or again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemon.record import Prompt, Take, keep, read_script, unread
from daemon.terminal import out, plain, show_error
from idiolect.errors import AudioError

KEYS = "Enter: keep, a: again, s: skip, q: end"


class Session:
    """One reading of `script` into `folder`. `ask` shows a question and returns the line that was typed."""

    def __init__(self, script: Path, folder: Path, device: str | None, ask: Callable[[str], str] = input) -> None:
        self._script, self._folder, self._device, self._ask = script, folder, device, ask

    def run(self) -> int:
        """All sentences that were not recorded yet, until the user ends it; the number recorded.

        Raises UsageError for the script, AudioError where there is no microphone.
        """
        prompts = read_script(self._script)
        left = unread(prompts, self._folder)
        kept = 0
        out.print(plain(f"{len(left)} of {len(prompts)} sentences are left. Recordings go into {self._folder}."))
        for number, prompt in enumerate(left, 1):
            try:
                done = self._one(prompt, f"{number}/{len(left)}")
            except EOFError:
                done = None
            if done is None:
                break
            kept += done
        out.print(f"{kept} recorded.")
        return kept

    def _one(self, prompt: Prompt, place: str) -> bool | None:
        """Whether it was kept; None to end."""
        while True:
            hint = f" ({prompt.hint})" if prompt.hint else ""
            out.print(f"\n[dim]{place}{plain(hint)}[/]\n[bold]{plain(prompt.text)}[/]", soft_wrap=True)
            answer = self._ask("Enter: begin, s: skip, q: end ").strip().lower()
            if answer in {"s", "q"}:
                return False if answer == "s" else None
            take = Take(self._device)
            self._ask("… recording; Enter when you are done ")
            pcm = take.stop()
            answer = self._ask(f"{len(pcm) / 32_000:.1f} s. {KEYS} ").strip().lower()
            if answer in {"s", "q"}:
                return False if answer == "s" else None
            if answer == "a":
                continue
            try:
                keep(pcm, prompt.text, self._folder)
            except AudioError as error:
                show_error(error)
                continue
            return True
