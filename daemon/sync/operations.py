"""What can be asked of the server and what it answers, one entry for each path: the table behind /openapi.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import BaseModel

from daemon.sync import hub
from idiolect import pairing, sending, signing, wire

Content: TypeAlias = type[BaseModel] | str | None
"""The model of a JSON body, the media type of another, or None for no body."""


class Problem(BaseModel):
    """Why something was refused (RFC 9457); `detail` is for people."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


@dataclass(frozen=True)
class Operation:
    """One path asked with one method (a HEAD is its GET without the body).

    `answers`: what is sent for each status of success, with what it means. `refusals`: what each other status means,
    beside those that any such path can have. `body`: what is sent along. `asks` and `tells`: request and response
    headers that matter. `payload`: what is signed, where the answer is an envelope.
    """

    summary: str
    answers: Mapping[int, tuple[str, Content]]
    refusals: Mapping[int, str] = field(default_factory=dict)
    body: Content = None
    asks: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    payload: type[BaseModel] | None = None


BYTES = "application/octet-stream"
HEADERS = {
    "If-None-Match": "Entity tags that the asker has already",
    "Prefer": "`wait=25`: answer when there is news, at the latest after so many seconds (25 at most)",
    "Range": "`bytes=FIRST-LAST`, one range; several, or another unit, are answered as if none were asked for",
    "If-Range": "The entity tag of what the range continues; another one: the whole file",
    "ETag": "What If-None-Match and If-Range are compared with",
    "Cache-Control": "How long this may be kept",
    "Accept-Ranges": "`bytes`",
    "Content-Range": "With 206: which bytes these are",
    "Content-Disposition": "The file's name",
    "Repr-Digest": "SHA-256 of the whole file (RFC 9530), also with 206",
    "X-Repo-Commit": "The commit that was found: 40 hex digits of the SHA-256 of the repository's file list",
    "X-Linked-Etag": "The file's SHA-256 in hex, in quotation marks",
    "X-Linked-Size": "The file's size in bytes",
    "X-Error-Code": "`RepoNotFound`, `RevisionNotFound` or `EntryNotFound`",
    "X-Error-Message": "The problem's detail",
    "Retry-After": "Seconds to wait before the next try",
    "WWW-Authenticate": '`Bearer realm="idiolect"`',
}
ALWAYS = {421: "the Host header names another machine", 429: "too many of these from this address"}
WITH_TOKEN = {
    401: "no token, or one that is unknown, revoked or expired",
    403: "a token that does not allow this, or may not be shown without TLS",
}
WITH_BODY = {
    400: "the body is not what it should be",
    408: "the body came too slowly",
    411: "no Content-Length",
    413: "the body is longer than 64 KiB",
    415: "the body has a Content-Encoding",
}

WITH_PATTERN = {404: "the path is not formed like this"}

_NO_ROOM = {507: "this cannot be noted: the disk is full, or may not be written to"}
_OVER = "this attempt is unknown or over"
_CLOSED = "nobody is let in now, or this is not TLS"
_NO_ENTRY = "no such repository, revision or file"
_HUB_TELLS = ("X-Repo-Commit", "Cache-Control")
_MODEL = Operation(
    "What a repository (of a device profile) is at a revision: main, beta or a commit",
    {200: ("its commit and files", hub.HubModel)},
    {404: _NO_ENTRY},
    tells=_HUB_TELLS,
)
_TREE = Operation(
    "What lies in a repository's folder, with `?recursive=true` also in its folders",
    {200: ("files and folders by name", hub.HubTree)},
    {404: _NO_ENTRY},
    tells=_HUB_TELLS,
)
_FILE_ASKS = ("If-None-Match", "Range", "If-Range")
_FILE_TELLS = ("ETag", "Cache-Control", "Accept-Ranges", "Content-Range", "Content-Disposition", "Repr-Digest")
_FILE_ANSWERS: Mapping[int, tuple[str, Content]] = {
    200: ("the file", BYTES),
    206: ("the part of it that was asked for", BYTES),
    304: ("the asker has it", None),
}
_FILE_REFUSALS = {416: "it ends before this range begins", 503: "too many files are being sent already"}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "/v1/hello"): Operation("Who answers here", {200: ("who it is", wire.Hello)}),
    ("GET", "/v1/manifest"): Operation(
        "Everything there is to have",
        {200: ("the manifest, signed", signing.Envelope), 304: ("the asker has it", None)},
        {404: "nothing has been published yet"},
        asks=("If-None-Match", "Prefer"),
        tells=("ETag", "Cache-Control"),
        payload=wire.Manifest,
    ),
    ("GET", "/v1/root/{version}"): Operation(
        "Who may sign manifests, from a version on",
        {200: ("the root, signed by the one before it and by itself", signing.Envelope)},
        {404: "the chain ends before it"},
        tells=("Cache-Control",),
        payload=wire.Root,
    ),
    ("GET", "/v1/blobs/sha256:{sha256}"): Operation(
        "A file by its digest",
        _FILE_ANSWERS,
        {404: "no release has such a file", 410: "the release with it was withdrawn"} | _FILE_REFUSALS,
        asks=_FILE_ASKS,
        tells=_FILE_TELLS,
    ),
    ("POST", "/v1/pair/qr"): Operation(
        "Be let in by the secret of a QR code",
        {200: ("let in", pairing.Granted)},
        {403: "this is not the secret, or the window is closed, or this is not TLS"} | _NO_ROOM,
        pairing.ByQr,
    ),
    ("POST", "/v1/pair"): Operation(
        "Begin to compare six digits, with a commitment to a nonce",
        {201: ("begun", pairing.Begun)},
        {403: _CLOSED},
        pairing.Begin,
    ),
    ("POST", "/v1/pair/{pair_id}/reveal"): Operation(
        "Reveal that nonce; both sides now show the digits",
        {204: ("the digits can be compared", None)},
        {403: _CLOSED, 409: "this is not what was committed to; the attempt is lost", 410: _OVER},
        pairing.Reveal,
    ),
    ("GET", "/v1/pair/{pair_id}"): Operation(
        "Wait, 25 s at most, for what the user decides",
        {200: ("let in; told once", pairing.Granted), 202: ("nothing was decided yet; ask again", None)},
        {403: "the digits were not agreed to, or this is not TLS", 410: _OVER} | _NO_ROOM,
    ),
    ("POST", "/v1/reports"): Operation(
        "Tell which release this device holds, and whether an app could load it",
        {204: ("noted", None)},
        {404: "no such release is listed for this profile"} | _NO_ROOM,
        wire.Report,
    ),
    ("DELETE", "/v1/devices/self"): Operation("Leave: the token is no longer good", {204: ("done", None)}, _NO_ROOM),
    ("GET", "/v1/recordings/{sha256}"): Operation(
        "What became of a recording of this device",
        {200: ("it is here", sending.Received)},
        {404: "this device has not sent it"},
        tells=("Cache-Control",),
    ),
    ("PUT", "/v1/recordings/{sha256}"): Operation(
        "Leave a recording, named by the SHA-256 of its bytes",
        {201: ("it was taken in", sending.Received), 200: ("it was here already", sending.Received)},
        {
            400: "these are not the bytes whose digest stands in the path, or they broke off",
            408: "it came too slowly",
            411: "no Content-Length",
            413: "longer than 25 MiB",
            415: "it has a Content-Encoding, or is no audio that is known here",
            422: "it cannot be decoded, or is too long",
            429: "too many from this device",
            503: "other recordings are being sent",
            507: "no room: for this device, for all, or on the disk",
        },
        BYTES,
        tells=("Cache-Control",),
    ),
    ("PUT", "/v1/recordings/{sha256}/meta"): Operation(
        "Say what is said in it",
        {200: ("noted", sending.Received)},
        {
            404: "this device has not sent it",
            409: "it was taken in for good with another text",
            422: "nobody can learn from this text",
            507: "no room on the disk",
        },
        sending.RecordingMeta,
        tells=("Cache-Control",),
    ),
    ("GET", "/api/models/{namespace}/{name}"): _MODEL,
    ("GET", "/api/models/{namespace}/{name}/revision/{revision}"): _MODEL,
    ("GET", "/api/models/{namespace}/{name}/tree/{revision}"): _TREE,
    ("GET", "/api/models/{namespace}/{name}/tree/{revision}/{path}"): _TREE,
    ("GET", "/{namespace}/{name}/resolve/{revision}/{path}"): Operation(
        "A file of a repository",
        _FILE_ANSWERS,
        {404: _NO_ENTRY} | _FILE_REFUSALS,
        asks=_FILE_ASKS,
        tells=(*_FILE_TELLS, "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"),
    ),
    ("GET", "/openapi.json"): Operation("This document", {200: ("OpenAPI 3.1", "application/json")}),
}
