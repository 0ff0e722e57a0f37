"""`python -m tests.conformance.make` writes cases.json: manifests that every client must judge alike.

A case gives what a device knows (`repo`, `seen`: its trust, where a fresh one has the root key from pairing alone, and
`now`), what a service answers (`envelope` to GET /v1/manifest, `roots` to GET /v1/root/{n}; a root that is not there
is a 404), and the verdict: `take` with the state after it in `then`, or `refuse` for the reason in `why`, with the
state unchanged. The keys are made from the names below, so that the file is the same each time; they sign nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from idiolect import signing

FILE = Path(__file__).with_name("cases.json")
REPO = "k7f3q2mzx5ab"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
Json = dict[str, Any]


def key(name: str) -> Ed25519PrivateKey:
    """The conformance key of that name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"idiolect conformance {name}".encode()).digest())


ROOT, RELEASE, ROOT_2, RELEASE_2, THIEF = map(key, ("root", "release", "root 2", "release 2", "thief"))


def manifest(**update: object) -> bytes:
    """A manifest's payload, with changes; None leaves a key out."""
    made = {
        "format": "idiolect-manifest/1",
        "repo": REPO,
        "version": 7,
        "issued": _time(-1),
        "expires": _time(29),
        "root_version": 1,
        "channels": {"tiny": {"stable": "r-0002"}},
        "withdrawn": ["r-0001"],
        "releases": [_release()],
        **update,
    }
    return _bytes({name: value for name, value in made.items() if value is not None})


def root(
    version: int, own: Ed25519PrivateKey, release: Ed25519PrivateKey, *signers: Ed25519PrivateKey, repo: str = REPO
) -> str:
    """A signed root."""
    said = {
        "format": "idiolect-root/1",
        "repo": repo,
        "version": version,
        "issued": _time(-2),
        "root_key": signing.public_of(own),
        "release_key": signing.public_of(release),
    }
    return signing.sign(_bytes(said), signing.ROOT_TYPE, signers).decode()


def signed(payload: bytes, *signers: Ed25519PrivateKey, kind: str = signing.MANIFEST_TYPE) -> str:
    """In an envelope, signed by the release key where nobody else is named."""
    return signing.sign(payload, kind, signers or (RELEASE,)).decode()


def seen(envelope: str, version: int, root_version: int = 1) -> Json:
    """What is known after this manifest."""
    return {
        "root_version": root_version,
        "root_key": signing.public_of(ROOT_2 if root_version == 3 else ROOT),
        "release_key": signing.public_of(RELEASE if root_version == 1 else RELEASE_2),
        "version": version,
        "manifest_sha256": hashlib.sha256(envelope.encode()).hexdigest(),
    }


def good() -> list[Json]:
    """What has to be taken."""
    known, newer = seen(GOOD, 7), signed(manifest(version=8))
    later = {number: signed(manifest(version=1, root_version=number), RELEASE_2) for number in (2, 3)}
    highest = signed(manifest(version=2**53 - 1))
    unknown = signed(manifest(colour="blue", releases=[_release() | {"mood": 1}]))
    two = signed(manifest(), THIEF, RELEASE)
    hinted = _changed(GOOD, signatures=[json.loads(GOOD)["signatures"][0] | {"keyid": "of somebody else"}])
    return [
        _take("the first manifest", FRESH, GOOD, 7),
        _take("the same again", known, GOOD, 7),
        _take("the same again, with no root to be had", known, GOOD, 7, roots={}),
        _take("the next", known, newer, 8),
        _take("the highest version there is", known, highest, 2**53 - 1),
        _take("keys nobody knows", FRESH, unknown, 7),
        _take("one good signature among two", FRESH, two, 7),
        _take("the keyid is only a hint", FRESH, hinted, 7),
        _take("an envelope with blanks", FRESH, json.dumps(json.loads(GOOD), indent=2), 7),
        _take("nothing published but the empty list", FRESH, signed(manifest(releases=[], channels={})), 7),
        _take("a new release key, by a new root", known, later[2], 1, 2, roots=SECOND),
        _take("two new roots at once, from the beginning", FRESH, later[3], 1, 3, roots=THIRD),
        _take("driven up, and back by a new root", seen(highest, 2**53 - 1), later[2], 1, 2, roots=SECOND),
        _take("paired after the root key changed", FRESH | _key(ROOT_2), later[3], 1, 3, roots=THIRD),
        _take("a release without a revision", FRESH, signed(manifest(releases=[_release(base={"name": "x"})])), 7),
    ]


def bad() -> list[Json]:
    """What has to be refused."""
    known, same = seen(GOOD, 7), json.loads(GOOD)
    payload, flipped = manifest(), bytearray(base64.b64decode(same["signatures"][0]["sig"]))
    flipped[5] ^= 1
    stolen = signed(manifest(version=99), THIEF)
    two = signed(manifest(version=1, root_version=2), RELEASE_2)
    file = _release()["artifacts"][0]["files"][0]
    paths = ["../x", "/x", "a/../x", "a\\x", "c:x", "", ".", "a//b", "ü", "a" * 81, "/".join("abcdefgh")]
    return [
        _refuse("not JSON", "form", FRESH, "hello"),
        _refuse("nothing", "form", FRESH, ""),
        _refuse("a list", "form", FRESH, "[]"),
        _refuse("a bare manifest", "form", FRESH, payload.decode()),
        _refuse("no signatures", "signature", FRESH, _changed(GOOD, signatures=[])),
        _refuse("an empty signature", "signature", FRESH, _changed(GOOD, signatures=[{"sig": ""}])),
        _refuse(
            "one bit of the signature",
            "signature",
            FRESH,
            _changed(GOOD, signatures=[{"sig": base64.b64encode(flipped).decode()}]),
        ),
        _refuse("signed by another key", "signature", FRESH, stolen),
        _refuse("signed by another key, next version", "signature", known, stolen),
        _refuse("signed by the root key", "signature", FRESH, signed(payload, ROOT)),
        _refuse(
            "the payload of another manifest under this signature",
            "signature",
            FRESH,
            _changed(GOOD, payload=base64.b64encode(manifest(version=8)).decode()),
        ),
        _refuse("a root in place of a manifest", "form", FRESH, FIRST["1"]),
        _refuse("signed as another type", "signature", FRESH, _changed(GOOD, kind=signing.ROOT_TYPE)),
        _refuse("another type outside", "form", FRESH, _changed(GOOD, payloadType=signing.ROOT_TYPE)),
        _refuse("the payload is no base64", "form", FRESH, _changed(GOOD, payload="%%%")),
        _refuse("an older version", "rollback", seen(GOOD, 8), GOOD),
        _refuse("the same version, other bytes", "fork", known, signed(manifest(withdrawn=[]))),
        _refuse("expired", "expired", FRESH, signed(manifest(expires=_time(-0.5)))),
        _refuse("expires this second", "expired", FRESH, signed(manifest(expires=_time(0)))),
        _refuse("the clock is a year on", "expired", known, GOOD, now=NOW + timedelta(days=365)),
        _refuse("of another service", "repo", FRESH, signed(manifest(repo="a" * 12))),
        _refuse("of another format", "form", FRESH, signed(manifest(format="idiolect-manifest/2"))),
        _refuse("version zero", "form", FRESH, signed(manifest(version=0))),
        _refuse("version 2^53", "form", FRESH, signed(manifest(version=2**53))),
        _refuse("no version", "form", FRESH, signed(manifest(version=None))),
        _refuse("a version that is a text", "form", FRESH, signed(manifest(version="7"))),
        _refuse("a version that is a truth", "form", FRESH, signed(manifest(version=True))),
        _refuse("a version that is not whole", "form", FRESH, signed(manifest(version=7.5))),
        _refuse("a time that is a number", "form", FRESH, signed(manifest(expires=4_733_510_400))),
        _refuse("a digest cut short", "form", FRESH, _with_file(file | {"sha256": "a" * 63})),
        _refuse("a file inside a file", "form", FRESH, _with_file(file, file | {"path": file["path"] + "/x"})),
        _refuse("a payload that is not JSON", "form", FRESH, signed(payload.replace(b"31.0", b"NaN"))),
        _refuse("a payload that is cut off", "form", FRESH, signed(payload[:-1])),
        _refuse("a tier called like a path", "form", FRESH, signed(manifest(channels={"../t": {"stable": "r-0002"}}))),
        _refuse("no end", "form", FRESH, signed(manifest(expires=None))),
        _refuse("a time without a zone", "form", FRESH, signed(manifest(expires="2126-11-23T12:00:00"))),
        _refuse("a digest in capitals", "form", FRESH, _with_file(file | {"sha256": "AB" * 32})),
        _refuse("a negative size", "form", FRESH, _with_file(file | {"size_bytes": -1})),
        _refuse("two files in one place", "form", FRESH, _with_file(file, file | {"path": file["path"].upper()})),
        *(_refuse(f"the path {path[:20]!r}", "form", FRESH, _with_file(file | {"path": path})) for path in paths),
        _refuse("not paired for signatures", "trust", FRESH | {"root_key": ""}, GOOD),
        _refuse("paired with another", "root", FRESH | _key(THIEF), GOOD),
        _refuse("no root to be had", "root", FRESH, GOOD, roots={}),
        _refuse(
            "a root of another service", "root", FRESH, GOOD, roots={"1": root(1, ROOT, RELEASE, ROOT, repo="b" * 12)}
        ),
        _refuse("a root that skips", "root", known, two, roots={"2": root(3, ROOT, RELEASE_2, ROOT)}),
        _refuse("a root signed by the release key", "root", known, two, roots={"2": root(2, ROOT, RELEASE_2, RELEASE)}),
        _refuse("a new root key signed by itself", "root", known, two, roots={"2": root(2, ROOT_2, RELEASE_2, ROOT_2)}),
        _refuse(
            "a new root key not signed by itself", "root", known, two, roots={"2": root(2, ROOT_2, RELEASE_2, ROOT)}
        ),
        _refuse("an older root", "rollback", seen(two, 1, 2), signed(manifest(version=9)), roots=SECOND),
        _refuse("a root signed as a manifest", "form", known, two, roots={"2": signed(_inside(SECOND["2"]), ROOT)}),
        _refuse("257 roots to walk", "root", FRESH, signed(manifest(root_version=257))),
        _refuse("two envelopes", "form", FRESH, f"{GOOD}\n{GOOD}"),
        _refuse("two manifests in one payload", "form", FRESH, signed(payload + b"\n" + payload)),
        _refuse("a bad manifest before a good one", "form", FRESH, signed(manifest(repo="{}") + b"\n" + payload)),
        _refuse("two envelopes of a root", "form", FRESH, GOOD, roots={"1": f"{FIRST['1']}\n{FIRST['1']}"}),
        _refuse("something before a root", "form", FRESH, GOOD, roots={"1": _prefixed(FIRST["1"])}),
    ]


def cases() -> Json:
    """The whole file."""
    return {"about": __doc__, "cases": [*good(), *bad()]}


def dump() -> str:
    """As it is written."""
    return json.dumps(cases(), indent=1, ensure_ascii=False) + "\n"


def _take(
    name: str, known: Json, envelope: str, version: int, root_version: int = 1, roots: Json | None = None
) -> Json:
    case = _case(name, known, envelope, FIRST if roots is None else roots, NOW)
    return case | {"verdict": "take", "then": seen(envelope, version, root_version)}


def _refuse(name: str, why: str, known: Json, envelope: str, roots: Json | None = None, now: datetime = NOW) -> Json:
    return _case(name, known, envelope, FIRST if roots is None else roots, now) | {"verdict": "refuse", "why": why}


def _case(name: str, known: Json, envelope: str, roots: Json, now: datetime) -> Json:
    return {"name": name, "repo": REPO, "now": _z(now), "seen": known, "roots": roots, "envelope": envelope}


def _inside(envelope: str) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def _changed(envelope: str, kind: str = "", **update: object) -> str:
    """The envelope with changes outside the signature; `kind`: signed as that type, then called a manifest."""
    made = json.loads(signed(manifest(), kind=kind)) if kind else json.loads(envelope)
    return json.dumps(made | {"payloadType": signing.MANIFEST_TYPE} | update)


def _prefixed(envelope: str) -> str:
    """The root, signed with an empty document before it."""
    return signed(b"{}\n" + _inside(envelope), ROOT, kind=signing.ROOT_TYPE)


def _key(own: Ed25519PrivateKey) -> Json:
    return {"root_key": signing.public_of(own)}


def _release(**update: object) -> Json:
    file = {"path": "idiolect-tiny-q4_0.bin", "size_bytes": 25300000, "sha256": "ab" * 32, "magic": "6c6d6767"}
    artifact = {
        "profile": "android-futo",
        "format": "ggml",
        "quantization": "q4_0",
        "size_bytes": 25300000,
        "checked": {"runtime": "whisper.cpp 1.8.5", "wer": 0.139, "speed_x": 31.0},
        "files": [file | {"role": "model"}],
    }
    return {
        "id": "r-0002",
        "tier": "tiny",
        "created": _time(-1),
        "languages": ["de"],
        "base": {"name": "openai/whisper-tiny", "license": "MIT"},
        "train": {"recordings": 540, "audio_s": 3310.5, "seed": 7, "recipe_sha256": "cd" * 32},
        "eval": {
            "set_sha256": "ef" * 32,
            "utterances": 120,
            "audio_s": 734.2,
            "wer_stock": 0.214,
            "wer_tuned": 0.131,
            "wer_ci95": [0.112, 0.15],
        },
        "artifacts": [artifact],
        **update,
    }


def _with_file(*files: Json) -> str:
    release = _release()
    return signed(manifest(releases=[release | {"artifacts": [release["artifacts"][0] | {"files": list(files)}]}]))


def _time(days: float) -> str:
    return _z(NOW + timedelta(days=days))


def _z(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _bytes(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


FRESH = {"root_version": 0, "root_key": signing.public_of(ROOT), "release_key": "", "version": 0, "manifest_sha256": ""}
GOOD = signed(manifest())
FIRST = {"1": root(1, ROOT, RELEASE, ROOT)}
SECOND = {**FIRST, "2": root(2, ROOT, RELEASE_2, ROOT)}
THIRD = {**SECOND, "3": root(3, ROOT_2, RELEASE_2, ROOT, ROOT_2)}


if __name__ == "__main__":
    FILE.write_text(dump(), encoding="utf-8")
