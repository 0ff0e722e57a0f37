"""What travels between the house and its devices. Clients ignore keys they do not know."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from idiolect.files import is_safe_relpath

MANIFEST_FORMAT = "idiolect-manifest/1"
MAX_MANIFEST_BYTES = 256 * 1024
MAX_INTEGER = 2**53 - 1
SERVICE_TYPE = "_idiolect._tcp.local."
API_VERSION = 1
CHANNELS = ("stable", "beta")


def _safe(path: str) -> str:
    if not is_safe_relpath(path):
        raise ValueError(f"unsafe path {path!r}")
    return path


Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelPath = Annotated[str, AfterValidator(_safe)]
ReleaseId = Annotated[str, Field(pattern=r"^r-[0-9]{4,12}$")]
Tier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
Rate = Annotated[float, Field(ge=0)]


class Wire(BaseModel):
    """Base: immutable, unknown keys ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ArtifactFile(Wire):
    """One file of an artifact. `magic` is the hex of its first four bytes, checked before an app sees it."""

    path: RelPath
    size_bytes: Count
    sha256: Sha256
    magic: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    role: str = "model"


class Checked(Wire):
    """How the artifact did in its own runtime on held-out clips; `wer` and `wer_stock` as fractions."""

    runtime: str
    wer: Rate
    wer_stock: Rate | None = None
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
    files: Annotated[list[ArtifactFile], Field(min_length=1)]


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
    created: datetime
    parent: ReleaseId | None = None
    languages: list[str]
    base: BaseModelInfo
    train: TrainInfo
    eval: EvalInfo
    artifacts: list[Artifact]

    def artifact(self, profile: str) -> Artifact | None:
        """The artifact for a device profile, if this release has one."""
        return next((artifact for artifact in self.artifacts if artifact.profile == profile), None)


class Manifest(Wire):
    """Everything the house has to offer. `version` only rises; `channels` maps tier → channel → release id."""

    format: Literal["idiolect-manifest/1"] = "idiolect-manifest/1"
    repo: Annotated[str, Field(pattern=r"^[a-z2-7]{12}$")]
    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    issued: datetime
    expires: datetime
    root_version: Count = 1
    channels: dict[Tier, dict[str, ReleaseId]] = {}
    withdrawn: list[ReleaseId] = []
    releases: list[Release] = []

    def release(self, release_id: str) -> Release | None:
        """The release with this id, if it is listed."""
        return next((release for release in self.releases if release.id == release_id), None)

    def current(self, profile: str, channel: str = "stable") -> tuple[Release, Artifact] | None:
        """The newest release that some tier's `channel` names and that has an artifact for `profile`."""
        found = None
        for tier in self.channels.values():
            release = self.release(tier.get(channel, ""))
            artifact = release.artifact(profile) if release and release.id not in self.withdrawn else None
            if release and artifact and (found is None or release.created > found[0].created):
                found = release, artifact
        return found


class Hello(Wire):
    """Who answers, without authentication."""

    id: str
    api: list[int]
    label: str
    pairing: Literal["open", "closed"] = "closed"
    now: datetime


def utc_now() -> datetime:
    """Now, in UTC, to the second, as it stands in a manifest."""
    return datetime.now(UTC).replace(microsecond=0)


def dump(model: Wire) -> bytes:
    """The exact bytes that travel: compact UTF-8 JSON."""
    return model.model_dump_json(exclude_none=True).encode()
