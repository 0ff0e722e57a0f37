"""`python -m tests.daemon.sync.fuzzing [CASES]`: ask the server what its OpenAPI document allows, and what it does not.

Half of the cases are as the document says, half break its schemas; ids and digests that exist are put in now and then,
and good tokens, bad ones and none are shown. Whatever comes back has to be documented, and must not tell anything that
the asker may not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from daemon.sync import guard, pairing, server
from daemon.sync.devices import READ
from daemon.sync.hub import Snapshot
from daemon.sync.openapi import document
from tests.daemon.sync.doors import House
from tests.daemon.sync.post import Post, post
from tests.daemon.sync.publishing import artifact, model_bytes, of

if TYPE_CHECKING:
    import requests

DEFAULT_CASES = 5_000
LEAKS = ("Traceback", "aiohttp", "pydantic", "site-packages", "PRIVATE KEY", "sqlite", ".py")
"""What no answer holds: the programs here, and how they failed."""

_Result = TypeVar("_Result")


class Ground:
    """A started server in a thread of its own, its window for pairing open, without limits on how often is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._post: Post
        self.home: House
        self.url = ""
        self.known: dict[str, list[str]] = {}
        """Path parameters that exist."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Ground]:
        """While the block runs."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(guard, "OPEN_REQUESTS_PER_MINUTE", 1 << 30)
            patch.setattr(guard, "WRONG_TOKENS_PER_MINUTE", 1 << 30)
            patch.setattr(pairing, "ATTEMPTS_PER_HOUR", 1 << 30)
            patch.setattr(pairing, "MAX_PENDING", 1 << 30)
            patch.setattr(server, "LONGEST_WAIT_S", 0.01)
            self._thread.start()
            self._wait(self._start())
            try:
                yield self
            finally:
                self._wait(self.home.server.stop())
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
                self.home.devices.close()
                self._post.inbox.close()

    def token(self) -> str:
        """A new device's."""

        async def add() -> str:
            return self.home.devices.add("guest", "fuzz", frozenset({READ}))[1]

        return self._wait(add())

    def let_in(self) -> None:
        """Open the window for pairing, where it is closed, with an attempt under way."""

        async def begin() -> None:
            desk = self.home.server.pairing
            if not desk.is_open:
                self.known["secret"] = [desk.open("a" * 12, ["127.0.0.1:1"]).secret]
                self.known["pair_id"] = [desk.begin("fuzz", "fuzz", "00" * 32, "127.0.0.1").pair_id]

        self._wait(begin())

    async def _start(self) -> None:
        self._post = post(self._folder)
        self.home = self._post.house
        store = self.home.server._store
        files = {"m/config.json": b"{}", "m/onnx/encoder.onnx": model_bytes(1, 20_000)}
        for version in range(2):
            folder = self._folder / f"made{version}"
            made = artifact(folder, files | {"m/v": bytes([version]) * 4}, "browser-onnx")
            store.publish(of((made, folder)))
        ((host, port),) = await self.home.server.start()
        self.url = f"https://{host}:{port}"
        assert store.published is not None
        snapshots = [Snapshot.of(release, release.artifacts[0]) for release in store.published.manifest.releases]
        self.known = {
            "sha256": list(store.published.files),
            "version": ["1"],
            "namespace": ["idiolect"],
            "name": ["browser-onnx"],
            "revision": ["main", "beta", *(snapshot.commit for snapshot in snapshots)],
            "path": ["config.json", "onnx", "onnx/encoder.onnx"],
        }

    def _wait(self, doing: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(60)


def fuzz(cases: int, folder: Path) -> Counter[str]:
    """Ask `cases` times or a little more. How often each `METHOD STATUS` came; a fault raises."""
    import requests
    import schemathesis
    import urllib3
    from schemathesis import GenerationMode, checks
    from schemathesis.core.result import Ok
    from schemathesis.specs.openapi import checks as openapi_checks

    wanted = [
        checks.not_a_server_error,
        openapi_checks.status_code_conformance,
        openapi_checks.content_type_conformance,
        openapi_checks.response_headers_conformance,
        openapi_checks.response_schema_conformance,
    ]
    seen: Counter[str] = Counter()
    with Ground(folder).open() as ground, requests.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)

        def ask(case: Any) -> None:  # noqa: ANN401
            ground.let_in()
            _prepare(case, ground, session, random.Random(seen.total()))
            response = case.call(base_url=ground.url, session=session, verify=False)
            case.validate_response(response, checks=wanted)
            _look_for_leaks(response, ground)
            seen[f"{case.method} {response.status_code}"] += 1

        described = document(ground.home.server._routes)
        for operation in (each for methods in described["paths"].values() for each in methods.values()):
            operation.pop("security", None)  # whose token is shown is chosen above
        schema = schemathesis.openapi.from_dict(described)
        operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        strategies = [each.as_strategy(generation_mode=mode) for mode in modes for each in operations]
        for turn in itertools.count():
            times = max(1, cases // len(strategies))
            strategies = [strategy for strategy in strategies if _each(strategy, ask, times, turn)]
            if seen.total() >= cases:
                break
    return seen


def _each(strategy: Any, ask: Callable[[Any], None], times: int, turn: int) -> bool:  # noqa: ANN401
    """`ask` so many cases, other ones in each turn. False where there is none: no input cannot be wrong."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis.errors import Unsatisfiable

    limits = settings(
        max_examples=times,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        seed(turn)(limits(given(case=strategy)(ask)))()
    except Unsatisfiable:
        return False
    return True


def _prepare(case: Any, ground: Ground, session: requests.Session, chance: random.Random) -> None:  # noqa: ANN401
    """Put in what exists, often; show a good token mostly, a bad one or none now and then."""
    for name in case.path_parameters or {}:
        if chance.random() < 0.7 and name in ground.known:
            case.path_parameters[name] = chance.choice(ground.known[name])
    if isinstance(case.body, dict) and "secret" in case.body and chance.random() < 0.3:
        case.body["secret"] = ground.known["secret"][0]
    own = ground.token() if case.method == "DELETE" else ground.home.token
    session.headers["Authorization"] = chance.choice([f"Bearer {own}"] * 7 + ["Bearer idl_" + "x" * 43, "Basic eDp5"])


def _look_for_leaks(response: Any, ground: Ground) -> None:  # noqa: ANN401
    text = response.content.decode("latin-1") + "".join(
        f"{name}: {value}\n" for name, value in response.headers.items()
    )
    secret = (str(ground._folder), ground.home.token, *ground.known.get("secret", ()))
    for leak in (*LEAKS, *secret):
        assert leak not in text, f"{response.request.method} {response.request.url} tells {leak!r}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        answers = fuzz(int(sys.argv[1]) if sys.argv[1:] else DEFAULT_CASES, Path(place))
    for answer, times in sorted(answers.items()):
        print(f"{answer:12} {times:6}")
    print(f"{'':12} {answers.total():6} cases; each answer is documented, and none tells too much")
