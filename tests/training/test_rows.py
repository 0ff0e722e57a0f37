"""Training only the rows that matter gives the same loss and the same gradients as the whole vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.decode import load_model
from training.rows import NAMES, Rows, may_be_new

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
    decoder = model.model.decoder
    assert len(decoder.embed_known) + len(decoder.embed_new) < 3_000
    assert len(decoder.embed_new) > 1
    assert torch.equal(rows.embed(tokens), weight.detach()[tokens])
    assert rows.logits(states).shape[1] == len(rows)
    ours = cross_entropy(rows.logits(states), rows.places(tokens))
    ours.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(whole.item(), rel=1e-5)
    assert weight.grad is not None
    gradients = torch.cat([decoder.embed_known.grad, decoder.embed_new.grad])
    assert torch.allclose(gradients[rows.places(tokens)], weight.grad[tokens], atol=1e-6)


def test_trained_rows_are_written_back(nano: Path) -> None:
    import torch

    model, _ = load_model(nano)
    silent = model.model.decoder.embed_tokens.weight.abs().sum(1) == 0
    met, unmet = int((~silent).nonzero()[0]), int(silent.nonzero()[0])
    assert not may_be_new(model, {met})
    assert may_be_new(model, {met, unmet})
    rows = Rows(model, {met, unmet})
    with torch.no_grad():
        for name, change in zip(NAMES, (1.0, 3.0, -2.0), strict=True):
            model.model.decoder.get_parameter(name).add_(change)
    before = model.model.decoder.embed_tokens.weight.detach().clone()
    rows.write_back()
    after = model.model.decoder.embed_tokens.weight
    assert torch.allclose(after[met], before[met] + 1.0)
    assert after[unmet].tolist() == [3.0] * 128
    assert may_be_new(model, {met})  # no row is empty any more
    assert torch.allclose(after[50_000], before[50_000] - 2.0)


def test_new_words_apart_move_nothing_but_their_rows(nano: Path) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    model, tokenizer = load_model(nano)
    tokens = torch.tensor(tokenizer(" stop at the mekolet", add_special_tokens=False).input_ids)
    rows = Rows(model, set(tokens.tolist()))
    new = torch.tensor([token in rows.new_tokens for token in tokens.tolist()])
    assert new.any()
    assert not new.all()
    states = torch.randn(len(tokens), 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    apart, places = rows.apart(states, rows.places(tokens)), rows.places(tokens)
    assert torch.equal(apart, states)
    cross_entropy(rows.logits(apart), places).backward()  # type: ignore[no-untyped-call]
    assert states.grad is not None
    assert torch.equal(states.grad.abs().sum(1) > 0, ~new)
    assert (model.model.decoder.embed_new.grad.abs().sum(1) > 0).all()


def test_a_model_that_met_every_token_is_trained_as_it_is(nano: Path) -> None:
    import torch

    model, _ = load_model(nano)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight.add_(0.01)
    rows = Rows(model, set())
    assert not any(name in dict(model.model.decoder.named_parameters()) for name in NAMES)
    assert rows.logits(torch.zeros(2, 128)).shape == (2, len(rows)) == (2, 51_865)
