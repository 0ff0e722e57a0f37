"""What the documentation says of the protocol is what the server does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from daemon.sync import blobs, guard, hub, listener, pairing, recordings, server
from daemon.sync.operations import ALWAYS, OPERATIONS, WITH_BODY, WITH_PATTERN, WITH_TOKEN, Problem
from idiolect.pairing import PAIR_EXPIRES_S
from idiolect.sending import MAX_RECORDING_BYTES, MAX_RECORDING_S
from idiolect.trust import MAX_ROOTS

DOCS = Path(__file__).parent.parent / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### `([A-Z]+) (\S+)`\n(.*?)(?=^##)", PROTOCOL, re.MULTILINE | re.DOTALL)
BODIES = re.findall(r"^```json (\w+)\n(.*?)^```", PROTOCOL, re.MULTILINE | re.DOTALL)
MODELS = {
    model.__name__: model
    for operation in OPERATIONS.values()
    for model in (operation.body, operation.payload, *(content for _, content in operation.answers.values()))
    if isinstance(model, type)
} | {"Problem": Problem}


def statuses(text: str) -> list[int]:
    return [int(status) for status in re.findall(r"^\| (\d{3}) \|", text, re.MULTILINE)]


def test_every_path_has_a_section_with_every_status() -> None:
    assert {(method, path) for method, path, _ in SECTIONS} == set(OPERATIONS)
    for method, path, text in SECTIONS:
        operation = OPERATIONS[method, path]
        assert statuses(text) == [*operation.answers, *operation.refusals], path


def test_what_any_path_can_answer_is_told() -> None:
    common = PROTOCOL.partition("| any | when |")[2].partition("\n\n")[0]
    assert set(statuses(common)) == {*ALWAYS, *WITH_TOKEN, *WITH_BODY, *WITH_PATTERN, 405}


def test_every_body_is_shown() -> None:
    assert {name for name, _ in BODIES} == MODELS.keys()


@pytest.mark.parametrize(("name", "text"), BODIES, ids=[name for name, _ in BODIES])
def test_a_body_is_shown_whole(name: str, text: str) -> None:
    shown = json.loads(text)
    model = MODELS[name].model_validate_json(text)
    assert model.model_dump(mode="json", exclude_unset=True, exclude_none=True) == shown  # nothing that is not a field
    assert not list(unset(model))


def unset(value: Any, where: str = "") -> Any:  # noqa: ANN401
    """The fields that an example leaves out, each of which has to stand in one of its kind."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name not in value.model_fields_set and name != "root" and (type(value), name) != (hub.HubEntry, "lfs"):
                yield f"{where}.{name}"
            yield from unset(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list):
        for each in value:
            yield from unset(each, where)


@pytest.mark.parametrize(
    "said",
    [
        f"| wrong tokens | {guard.WRONG_TOKENS_PER_MINUTE} a minute",
        f"| what needs no token | {guard.OPEN_REQUESTS_PER_MINUTE} a minute",
        f"| pairing | {pairing.MAX_PENDING} attempts at once, {pairing.ATTEMPTS_PER_HOUR} an hour",
        f"{listener.MAX_STRANGERS_PER_ADDRESS} from one address, {listener.MAX_STRANGERS} in all",
        f"| connections | {listener.MAX_CONNECTIONS} |",
        f"| a request's header | within {listener.HEADER_S:.0f} s |",
        f"| a body | {guard.MAX_JSON_BYTES // 1024} KiB, within {guard.body_deadline_s(0):.0f} s",
        f"| a connection at rest | {server.KEEPALIVE_S:.0f} s |",
        f"| files at once | {blobs.STREAMS_PER_DEVICE} to a device, {blobs.STREAMS} in all;",
        f"in all; {blobs.STREAMS_WHILE_TRAINING} while a model is being trained |",
        f"| a reader who takes nothing | {blobs.STALL_S:.0f} s |",
        f"waits up to {hub.SLOT_WAIT_S:.0f} s for its turn",
        f'"expires_s": {PAIR_EXPIRES_S}',
        f"Wait, {server.LONGEST_WAIT_S:.0f} s at most",
        f"| recordings | {MAX_RECORDING_BYTES >> 20} MiB and {MAX_RECORDING_S / 60:.0f} minutes each,",
        f"{recordings.PER_MINUTE} a minute and {recordings.UPLOADS_PER_DEVICE} at once from a device",
        f"at most {MAX_ROOTS} steps",
        "for five minutes and one device" if pairing.OPEN_S == 300 else "",
        "asked for none for five minutes" if hub.LISTED_S == 300 else "",
    ],
)
def test_a_limit_is_as_it_is_told(said: str) -> None:
    assert said
    assert said in " ".join(PROTOCOL.split())
