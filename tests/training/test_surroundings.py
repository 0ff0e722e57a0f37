"""Noise and echo in log-mel energies: as loud as said, nothing lost, the same for the same chance."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
from idiolect.whisper import special_tokens  # noqa: E402
from training.batches import draw_batch  # noqa: E402
from training.examples import Example  # noqa: E402
from training.recipe import Settings  # noqa: E402
from training.surroundings import echoing, noisy  # noqa: E402

pytestmark = [pytest.mark.torch]


@pytest.mark.parametrize("seed", range(5))
def test_noise_lies_below_the_speech_and_fills_its_gaps(seed: int) -> None:
    speech = torch.full((80, 200), -8.0)
    speech[10:20, 50:150] = 1.0
    heard = noisy(speech, random.Random(seed))
    assert heard.shape == speech.shape
    assert torch.equal(heard, noisy(speech, random.Random(seed)))
    assert (heard >= speech - 1e-5).all()
    mean_db = 10 * torch.log10((10**speech).mean())
    noise_db = 10 * torch.log10((10**heard - 10**speech).mean())
    assert 14 < mean_db - noise_db < 41
    assert heard[40, 100] > -8.0


@pytest.mark.parametrize("seed", range(5))
def test_an_echo_follows_what_was_said(seed: int) -> None:
    speech = torch.full((80, 200), -10.0)
    speech[:, 50] = 1.0
    heard = echoing(speech, random.Random(seed))
    assert heard.shape == speech.shape
    assert torch.allclose(heard[:, :50], speech[:, :50], atol=0.15)  # only the floor echoes before it
    tail = heard[0, 51:91]
    assert (tail[:-1] >= tail[1:]).all()
    energy_db = 10 * torch.log10((10**tail).sum() / 10)
    assert -15.5 < energy_db < -5.5


def test_batches_have_as_much_of_both_as_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    mel = torch.full((80, 200), -8.0)
    mel[10:20, 50:150] = 1.0
    clip = Example("a", mel, (11,), "en", 1.5, 2.0, ((11,),), "a")

    heard = {"noisy": 0, "echoing": 0}
    for name in heard:

        def counted(mel: object, rng: object, name: str = name) -> object:
            heard[name] += 1
            return mel

        monkeypatch.setattr(f"training.batches.{name}", counted)
    settings = Settings(noise_share=0.1, echo_share=0.4)
    rng = random.Random(0)
    for _ in range(100):
        draw_batch([(clip, 120)] * 2, special_tokens(51_865), settings, rng)
    assert 10 <= heard["noisy"] <= 30
    assert 65 <= heard["echoing"] <= 95
