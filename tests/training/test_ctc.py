"""The letter head: the same loss as torch's own, and it learns to spell."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.ctc import NAMES, CtcHead
from training.decode import load_model

pytestmark = pytest.mark.torch
TEXTS = ("call anna", "שלום ü", "")


def test_its_loss_is_per_letter_and_zero_where_the_letters_do_not_fit(nano: Path) -> None:
    import torch

    encoder = load_model(nano)[0].model.encoder
    head = CtcHead(encoder, TEXTS)
    assert all(name in dict(encoder.named_parameters()) for name in NAMES)
    hidden = torch.randn(2, 40, 128, generator=torch.Generator().manual_seed(0))
    loss = head.loss(hidden, TEXTS[:2])
    # an untrained head gives every label the same chance: what remains is the number of ways to write the text
    assert loss.shape == (2,)
    assert (loss > 0).all()
    one_letter = head.loss(hidden[:1, :1], ["c"])
    assert one_letter.item() == pytest.approx(torch.log(torch.tensor(len({*"".join(TEXTS)}) + 1.0)).item())
    assert head.loss(hidden[:, :3], TEXTS[:2]).tolist() == [0.0, 0.0]


def test_it_learns_to_spell(nano: Path) -> None:
    import torch

    encoder = load_model(nano)[0].model.encoder
    head = CtcHead(encoder, TEXTS)
    hidden = torch.randn(1, 30, 128, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(head.parameters, lr=0.5)
    losses = []
    for _ in range(30):
        loss = head.loss(hidden, TEXTS[:1]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
