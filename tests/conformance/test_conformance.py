"""The Python client judges as cases.json says; so has every other."""

from __future__ import annotations

import json
import random
from datetime import datetime
from typing import Any

import pytest

from idiolect.errors import VerificationFailed
from idiolect.trust import Trust
from idiolect.wire import MAX_MANIFEST_BYTES, Manifest
from tests.conformance.make import FILE, FIRST, FRESH, GOOD, dump

CASES = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
MUTATIONS = 1000
MESSAGES = {
    "form": "is not a signed document|is not a manifest|is not a root|was wanted, this is",
    "signature": "the signature is not of the key",
    "rollback": "^rollback: ",
    "fork": "^fork: ",
    "expired": "expired on",
    "repo": "this is a manifest of service",
    "trust": "not told at pairing",
    "root": "no root of this service|cannot be had|of root 257|this is root|the signature is not of the key",
}


def judge(case: dict[str, Any], envelope: bytes) -> tuple[Trust, Manifest]:
    def root(version: int) -> bytes:
        if str(version) not in case["roots"]:
            raise VerificationFailed(f"root {version} cannot be had: it answers 404")
        return bytes(case["roots"][str(version)], "latin-1")

    return Trust(**case["seen"]).take(envelope, case["repo"], datetime.fromisoformat(case["now"]), root)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['verdict']}: {case['name']}")
def test_judged_as_written(case: dict[str, Any]) -> None:
    envelope = case["envelope"].encode()
    if case["verdict"] == "take":
        trust, manifest = judge(case, envelope)
        assert trust.model_dump(exclude={"expires"}) == case["then"]
        assert manifest.version == case["then"]["version"]
    else:
        with pytest.raises(VerificationFailed, match=MESSAGES[case["why"]]):
            judge(case, envelope)


def test_the_file_is_what_the_script_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == dump(), "run: python -m tests.conformance.make"
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert {case["why"] for case in CASES if case["verdict"] == "refuse"} == set(MESSAGES)
    assert max(len(case["envelope"]) for case in CASES if case["verdict"] == "take") < MAX_MANIFEST_BYTES


def mutated(body: bytes, dice: random.Random) -> bytes:
    """One to four bytes changed, cut out, put in or swapped with others."""
    made = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(made))
        kind = dice.randrange(5)
        if kind == 0:
            made[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            made[at] = dice.choice(b'0123456789AZaz+/={}[]",: ')
        elif kind == 2:
            del made[at : at + dice.randint(1, 40)]
        elif kind == 3:
            made[at:at] = dice.randbytes(dice.randint(1, 8))
        else:
            other = dice.randrange(len(made))
            made[at], made[other] = made[other], made[at]
    return bytes(made)


def test_no_mutation_is_accepted_for_what_it_is_not() -> None:
    """Of the manifest and of its root. Where one is accepted nothing that is signed may differ: only blanks, the keyid
    and keys that nobody knows lie outside the signature."""
    dice = random.Random(20261123)
    case: dict[str, Any] = {"repo": "k7f3q2mzx5ab", "now": "2026-11-23T12:00:00Z", "seen": FRESH, "roots": FIRST}
    whole = judge(case, GOOD.encode())[1]
    refused = 0
    for number in range(MUTATIONS):
        envelope, root = GOOD.encode(), FIRST["1"].encode()
        if number % 4:
            envelope = mutated(envelope, dice)
        else:
            root = mutated(root, dice)
        try:
            trust, manifest = judge(case | {"roots": {"1": root.decode("latin-1")}}, envelope)
        except VerificationFailed:
            refused += 1
        else:
            assert manifest == whole
            assert trust.release_key == CASES[0]["then"]["release_key"]
    assert refused > 0.9 * MUTATIONS
