"""What travels between the house and its devices. Clients ignore keys they do not know."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from idiolect.files import is_safe_relpath

MAX_MANIFEST_BYTES = 256 * 1024
MAX_ROOT_BYTES = 16 * 1024
MAX_INTEGER = 2**53 - 1
SERVICE_TYPE = "_idiolect._tcp.local."
API_VERSION = 1
_REPO_ID = re.compile(r"^[a-z2-7]{12}$")


def _safe(path: str) -> str:
    if not is_safe_relpath(path):
        raise ValueError(f"unsafe path {path!r}")
    return path


def _distinct(files: list[ArtifactFile]) -> list[ArtifactFile]:
    # Without regard to case: on macOS and Windows `A` and `a` are one file.
    paths = {file.path.casefold() for file in files}
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    if len(paths) < len(files) or paths & folders:
        raise ValueError("two files in one place")
    return files


Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RepoId = Annotated[str, Field(pattern=_REPO_ID.pattern)]
RelPath = Annotated[str, AfterValidator(_safe)]
ReleaseId = Annotated[str, Field(pattern=r"^r-[0-9]{4,12}$")]
PublicKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
Tier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
Rate = Annotated[float, Field(ge=0)]


class Wire(BaseModel):
    """Base: immutable, unknown keys ignored, nothing taken for what it is not (the text "1" is no number), so that all
    clients read alike. Times are UTC, sizes bytes, durations seconds, error rates fractions."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class ArtifactFile(Wire):
    """One file of an artifact. `magic` is the hex of its first bytes, four at most, checked before an app sees it."""

    path: RelPath
    size_bytes: Count
    sha256: Sha256
    magic: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){0,4}$")] = ""
    role: str = "model"


class Checked(Wire):
    """How the artifact did in its own runtime on held-out clips; `wer` as a fraction, `speed_x` times real time."""

    runtime: str
    wer: Rate
    speed_x: float
    status: Literal["fully", "partly"] = "fully"
    not_checked: list[str] = []


class Artifact(Wire):
    """One exported file or folder for one device profile."""

    profile: str
    format: str
    quantization: str
    size_bytes: Count
    checked: Checked
    min: dict[str, Any] = {}
    hints: dict[str, Any] = {}
    files: Annotated[list[ArtifactFile], Field(min_length=1), AfterValidator(_distinct)]


class BaseModelInfo(Wire):
    """The stock weights a release was trained from."""

    name: str
    revision: str = ""
    license: str = ""


class TrainInfo(Wire):
    """What a release was trained on."""

    recordings: Count
    audio_s: float
    seed: int
    recipe_sha256: Sha256


class EvalInfo(Wire):
    """How a release did on recordings it never saw; rates are fractions."""

    set_sha256: Sha256
    utterances: Count
    audio_s: float
    wer_stock: Rate
    wer_tuned: Rate
    wer_ci95: tuple[float, float]


class Release(Wire):
    """The artifacts of one run."""

    id: ReleaseId
    tier: Tier
    created: AwareDatetime
    parent: ReleaseId | None = None
    languages: list[str]
    base: BaseModelInfo
    train: TrainInfo
    eval: EvalInfo
    artifacts: list[Artifact]

    @property
    def number(self) -> int:
        """The 12 of `r-0012`."""
        return int(self.id.removeprefix("r-"))

    def artifact(self, profile: str) -> Artifact | None:
        """The artifact for a device profile, if this release has one."""
        return next((artifact for artifact in self.artifacts if artifact.profile == profile), None)


class Manifest(Wire):
    """Everything the house has to offer. `version` only rises; `channels` maps tier → channel → release id."""

    format: Literal["idiolect-manifest/1"] = "idiolect-manifest/1"
    repo: RepoId
    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    issued: AwareDatetime
    expires: AwareDatetime
    root_version: Annotated[int, Field(ge=1, le=MAX_INTEGER)] = 1
    channels: dict[Tier, dict[str, ReleaseId]] = {}
    withdrawn: list[ReleaseId] = []
    releases: list[Release] = []

    def release(self, release_id: str) -> Release | None:
        """The release with this id, if it is listed."""
        return next((release for release in self.releases if release.id == release_id), None)

    def current(self, profile: str, channel: str = "stable") -> tuple[Release, Artifact] | None:
        """The newest release that some tier's `channel` names and that has an artifact for `profile`."""
        named = {tier.get(channel) for tier in self.channels.values()} - set(self.withdrawn)
        # By number, which only rises; a clock can be set back.
        for release in sorted(self.releases, key=lambda release: release.number, reverse=True):
            artifact = release.artifact(profile) if release.id in named else None
            if artifact:
                return release, artifact
        return None


class Root(Wire):
    """Who may sign the manifests of `repo`. Keys are Ed25519, base64url of 32 bytes; `version` rises by one."""

    format: Literal["idiolect-root/1"] = "idiolect-root/1"
    repo: RepoId
    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    issued: AwareDatetime
    root_key: PublicKey
    release_key: PublicKey


class Report(Wire):
    """POST /v1/reports: what a device holds. `loaded`: whether an app could use it, None where nobody tried. `wer`: the
    word error rate that the device has measured, as a fraction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: ReleaseId
    profile: Annotated[str, Field(max_length=80)]
    loaded: bool | None = None
    wer: Rate | None = None
    error: Annotated[str, Field(max_length=500)] = ""


class Hello(Wire):
    """Who answers, without authentication."""

    id: RepoId
    api: list[int]
    label: str
    pairing: Literal["open", "closed"] = "closed"
    now: AwareDatetime


def is_repo_id(text: str) -> bool:
    """True for what can be the id of a service's store: 12 base32 characters."""
    return _REPO_ID.fullmatch(text) is not None


def utc_now() -> datetime:
    """Now, in UTC, to the second, as it stands in a manifest."""
    return datetime.now(UTC).replace(microsecond=0)


def dump(model: Wire) -> bytes:
    """The exact bytes that travel: compact UTF-8 JSON."""
    return model.model_dump_json(exclude_none=True).encode()
