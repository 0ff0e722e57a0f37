"""The mean of the last weights."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch  # noqa: E402

from training.averaging import MAX_SAMPLES, Average  # noqa: E402


def _walk(total_steps: int, upto: int | None = None, average: Average | None = None, first: int = 0) -> Average:
    """A parameter that holds the number of steps done."""
    weight = torch.nn.Parameter(torch.full((2, 3), float(first)))
    average = average or Average([weight], total_steps)
    average._parameters = [weight]
    for step in range(first + 1, (upto or total_steps) + 1):
        with torch.no_grad():
            weight.fill_(float(step))
        average.take(step)
    return average


@pytest.mark.parametrize(("total_steps", "mean"), [(10, (8 + 9 + 10) / 3), (1, 1.0), (2, 2.0), (20, 17.5)])
def test_of_the_last_steps(total_steps: int, mean: float) -> None:
    average = _walk(total_steps)
    average.put()
    assert torch.allclose(average._parameters[0], torch.full((2, 3), mean))


def test_many_steps_are_sampled() -> None:
    average = _walk(10_000)
    assert MAX_SAMPLES <= average.count < 2 * MAX_SAMPLES
    assert float(average.means[0][0, 0]) == pytest.approx(8_500, rel=0.01)


def test_what_another_run_took_in_counts() -> None:
    whole, begun = _walk(20), _walk(20, upto=17)
    rest = Average([], 20)
    rest.restore(begun.count, begun.means)
    _walk(20, average=rest, first=17)
    assert torch.allclose(rest.means[0], whole.means[0])
    assert rest.count == whole.count


def test_nothing_was_taken_in() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    Average([weight], 10).put()
    assert weight.tolist() == [1.0, 1.0]
