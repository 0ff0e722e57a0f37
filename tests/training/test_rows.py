"""Training only the rows that matter gives the same loss and the same gradients as the whole vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.decode import load_model
from training.rows import Rows

pytestmark = pytest.mark.torch


def test_silent_rows_are_left_out_exactly(nano: Path) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    model, tokenizer = load_model(nano)
    tokens = torch.tensor(tokenizer(" remind me to stop at the mekolet", add_special_tokens=False).input_ids)
    states = torch.randn(len(tokens), 128, generator=torch.Generator().manual_seed(0))
    weight = model.model.decoder.embed_tokens.weight.detach().clone().requires_grad_()
    whole = cross_entropy(states @ weight.T, tokens)
    whole.backward()  # type: ignore[no-untyped-call]

    rows = Rows(model, set(tokens.tolist()))
    assert len(rows.parameters[0]) < 3_000
    assert torch.equal(rows.embed(tokens), weight.detach()[tokens])
    ours = cross_entropy(rows.logits(states), rows.places(tokens))
    ours.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(whole.item(), rel=1e-5)
    assert weight.grad is not None
    assert rows.parameters[0].grad is not None
    assert torch.allclose(rows.parameters[0].grad[rows.places(tokens)], weight.grad[tokens], atol=1e-6)


def test_trained_rows_are_written_back(nano: Path) -> None:
    import torch

    model, _ = load_model(nano)
    rows = Rows(model, {1000})
    with torch.no_grad():
        rows.parameters[0].add_(1.0)
        rows.parameters[1].sub_(2.0)
    before = model.model.decoder.embed_tokens.weight.detach().clone()
    rows.write_back()
    after = model.model.decoder.embed_tokens.weight
    assert torch.allclose(after[1000], before[1000] + 1.0)
    assert torch.allclose(after[50_000], before[50_000] - 2.0)


def test_a_model_that_met_every_token_is_trained_as_it_is(nano: Path) -> None:
    import torch

    model, _ = load_model(nano)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight.add_(0.01)
    rows = Rows(model, set())
    assert rows.parameters[0] is model.model.decoder.embed_tokens.weight
    assert rows.logits(torch.zeros(2, 128)).shape == (2, 51_865)
