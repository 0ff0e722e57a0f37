from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.sync.openapi import document, key, plain_path, refusals
from daemon.sync.operations import HEADERS, OPERATIONS
from daemon.sync.server import Server
from tests.daemon.sync.doors import Ask, House, asking, client_tls
from tests.daemon.sync.post import post

CASES = 5  # of each operation; `make fuzz` asks more


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    at = post(tmp_path / "home")
    yield at.house.server
    at.house.devices.close()
    at.inbox.close()


@pytest.fixture
async def ask(server: Server) -> AsyncIterator[Ask]:
    ((host, port),) = await server.start()
    yield asking(House(server, server._devices, ""), host, port, client_tls())
    await server.stop()


async def test_it_is_served_to_anybody_and_tells_of_no_program(ask: Ask, server: Server) -> None:
    status, headers, body = await ask("/openapi.json", token="")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == document(server._routes)
    assert not re.search(rb"aiohttp|python|pydantic|traceback", body, re.IGNORECASE)


def test_every_route_is_in_the_table_and_the_reverse(server: Server) -> None:
    assert {key(route) for route in server._routes} == set(OPERATIONS)
    described = document(server._routes)["paths"]
    found = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert found == {(route.method, plain_path(route.path)) for route in server._routes}


def test_an_operation(server: Server) -> None:
    paths = document(server._routes)["paths"]
    get, head = paths["/v1/blobs/sha256:{sha256}"]["get"], paths["/v1/blobs/sha256:{sha256}"]["head"]
    assert get["security"] == [{"token": ["models:read"]}]
    assert get["parameters"][0] == {
        "in": "path",
        "name": "sha256",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "pattern": "^[0-9a-f]{64}$"},
    }
    assert list(get["responses"]) == ["200", "206", "304", "401", "403", "404", "410", "416", "421", "429", "503"]
    assert get["responses"]["200"]["content"] == {"application/octet-stream": {}}
    assert "content" not in head["responses"]["200"]
    begin = paths["/v1/pair"]["post"]
    assert "security" not in begin
    assert {"400", "408", "411", "413", "415"} <= begin["responses"].keys()
    assert paths["/v1/devices/self"]["delete"]["security"] == [{"token": []}]


def test_the_schemas_are_those_of_the_models(server: Server) -> None:
    schemas = document(server._routes)["components"]["schemas"]
    begin = schemas["Begin"]
    assert begin["additionalProperties"] is False
    assert begin["required"] == ["commit", "label"]
    assert begin["properties"]["commit"]["pattern"] == "^[0-9a-f]{64}$"
    assert schemas["Manifest"]["properties"]["releases"]["items"] == {"$ref": "#/components/schemas/Release"}
    signed = document(server._routes)["paths"]["/v1/manifest"]["get"]["responses"]["200"]["content"]["application/json"]
    assert signed["schema"]["$ref"] == "#/components/schemas/Envelope"
    assert signed["schema"]["properties"]["payload"]["contentSchema"] == {"$ref": "#/components/schemas/Manifest"}
    assert schemas["HubTree"]["items"] == {"$ref": "#/components/schemas/HubEntry"}


def test_two_reasons_for_one_status_are_both_told(server: Server) -> None:
    (route,) = (
        each for each in server._routes if key(each) == ("GET", "/v1/blobs/sha256:{sha256}") and each.method == "GET"
    )
    assert refusals(route)[404] == "the path is not formed like this; or no release has such a file"


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=map(" ".join, OPERATIONS))
def test_what_an_operation_names_is_described(operation: object) -> None:
    assert {*operation.asks, *operation.tells} <= HEADERS.keys()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis, of the [dev] extra")
def test_whatever_is_asked_the_answer_is_documented_and_tells_nothing(tmp_path: Path) -> None:
    from tests.daemon.sync.fuzzing import fuzz

    answers = fuzz(CASES, tmp_path)
    assert answers.total() >= CASES
    assert {"GET 200", "GET 401", "GET 404", "HEAD 200", "POST 201", "POST 400"} <= answers.keys()
