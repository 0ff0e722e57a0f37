"""The OpenAPI document: what the routes are, with the table of operations and the models' JSON Schemas."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from daemon.sync.guard import Route
from daemon.sync.operations import (
    ALWAYS,
    HEADERS,
    OPERATIONS,
    WITH_BODY,
    WITH_PATTERN,
    WITH_TOKEN,
    Content,
    Operation,
    Problem,
)
from idiolect import wire

Json: TypeAlias = dict[str, Any]

_PARAMETER = re.compile(r"\{(?P<name>[a-z0-9_]+)(?::(?P<pattern>(?:[^{}]|\{[^{}]*\})+))?\}")
_REFERENCE = "#/components/schemas/{model}"


class Specification:
    """Answers with the document of the routes that `list_routes` gives, once the server has all of them."""

    def __init__(self, list_routes: Callable[[], Sequence[Route]]) -> None:
        self._list_routes = list_routes

    def routes(self) -> list[Route]:
        """Where it can be had."""
        return [Route(method, "/openapi.json", self._get, None) for method in ("GET", "HEAD")]

    async def _get(self, _: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=self._body, content_type="application/json", headers=headers)

    @functools.cached_property
    def _body(self) -> bytes:
        return json.dumps(document(self._list_routes())).encode()


def document(routes: Iterable[Route]) -> Json:
    """OpenAPI 3.1 for `routes`, each of which needs its entry among the operations (KeyError)."""
    paths: dict[str, Json] = {}
    models: set[type[BaseModel]] = {Problem}
    for route in routes:
        operation = OPERATIONS[key(route)]
        paths.setdefault(plain_path(route.path), {})[route.method.lower()] = _operation(route, operation)
        models.update(_models(operation))
    schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)], ref_template=_REFERENCE
    )[1]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "idiolect",
            "version": str(wire.API_VERSION),
            "description": "What a house with private voice models answers on its own network.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What a device was told when it was let in",
                }
            },
        },
    }


def key(route: Route) -> tuple[str, str]:
    """Under what a route stands among the operations."""
    return "GET" if route.method == "HEAD" else route.method, plain_path(route.path)


def plain_path(path: str) -> str:
    """A route's path without the patterns of its parameters."""
    return _PARAMETER.sub(r"{\g<name>}", path)


def refusals(route: Route) -> dict[int, str]:
    """Every status by which it can be refused, and why. Raises KeyError where it is not among the operations."""
    operation = OPERATIONS[key(route)]
    common = dict(ALWAYS)
    for applies, also in (
        (route.scope is not None, WITH_TOKEN),
        (isinstance(operation.body, type), WITH_BODY),
        (plain_path(route.path) != route.path, WITH_PATTERN),
    ):
        common |= also if applies else {}
    both = {status: f"{common[status]}; or {why}" for status, why in operation.refusals.items() if status in common}
    return dict(sorted((common | dict(operation.refusals) | both).items()))


def _operation(route: Route, operation: Operation) -> Json:
    described: Json = {
        "operationId": f"{route.method.lower()} {plain_path(route.path)}",
        "summary": operation.summary,
        "parameters": [
            *(_in_path(match["name"], match["pattern"]) for match in _PARAMETER.finditer(route.path)),
            *({"in": "header", "name": name} | _header(name) for name in operation.asks),
        ],
        "responses": {
            **{str(status): _answer(route, operation, status) for status in operation.answers},
            **{str(status): _refusal(status, why) for status, why in refusals(route).items()},
        },
    }
    if route.scope is not None:
        described["security"] = [{"token": [route.scope] if route.scope else []}]
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    return described


def _in_path(name: str, pattern: str | None) -> Json:
    schema: Json = {"type": "string", "minLength": 1}
    if pattern and pattern != ".+":
        schema["pattern"] = f"^{pattern}$"
    return {"in": "path", "name": name, "required": True, "schema": schema}


def _header(name: str) -> Json:
    return {"description": HEADERS[name], "schema": {"type": "string"}}


def _answer(route: Route, operation: Operation, status: int) -> Json:
    meaning, content = operation.answers[status]
    answer: Json = {"description": meaning}
    if operation.tells:
        answer["headers"] = {name: _header(name) for name in operation.tells}
    if content is not None and route.method != "HEAD":
        answer["content"] = _content(content, operation.payload)
    return answer


def _refusal(status: int, why: str) -> Json:
    names = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",), 416: ("Content-Range",)}
    return {
        "description": why,
        "headers": {name: _header(name) for name in names.get(status, ())},
        "content": {"application/problem+json": _schema(Problem)},
    }


def _content(content: Content, payload: type[BaseModel] | None = None) -> Json:
    if isinstance(content, str):
        return {content: {}}
    assert content is not None
    described = _schema(content)
    if payload is not None:
        signed = {
            "contentEncoding": "base64",
            "contentMediaType": "application/json",
            "contentSchema": _reference(payload),
        }
        described["schema"]["properties"] = {"payload": signed}
    return {"application/json": described}


def _schema(model: type[BaseModel]) -> Json:
    return {"schema": _reference(model)}


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _models(operation: Operation) -> list[type[BaseModel]]:
    contents = [operation.body, operation.payload, *(content for _, content in operation.answers.values())]
    return [content for content in contents if isinstance(content, type)]
