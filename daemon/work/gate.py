"""Whether a finished run may reach the devices. A pure decision over its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from daemon.work.spec import ArtifactResult, Difference, JobResult
from device_profiles import Profile
from training.split import MIN_JUDGED_CLIPS, MIN_JUDGED_WORDS, is_judgeable

MAX_LOOPS = 0.005
WORSE = 0.01  # WER: so much more than the published release's is worse, whatever the interval says


@dataclass(frozen=True)
class Verdict:
    """Publish or keep, every reason in plain words, and the artifacts that would be published."""

    publish: bool
    reasons: tuple[str, ...]
    artifacts: tuple[ArtifactResult, ...]


def decide(result: JobResult, profiles: Mapping[str, Profile], publish_anyway: bool = False) -> Verdict:
    """Publish when better than stock, not worse than the published release, and every profile's file is as good.

    `publish_anyway` overrides figures, never a file that could not be made or run.
    """
    broken: list[str] = []
    warnings: list[str] = []
    figures = [*_model_reasons(result)]
    for artifact in result.artifacts:
        if artifact.profile not in profiles:
            broken.append(f"{artifact.profile}: the configuration no longer names this profile")
        elif artifact.error or artifact.scores is None:
            broken.append(f"{artifact.profile}: {artifact.error or 'not measured'}" + _hint(artifact))
        else:
            profile = profiles[artifact.profile]
            figures += _artifact_reasons(artifact, result, profile)
            (figures if profile.enforce_speed else warnings).extend(_slowness(artifact, profile))
    if not result.artifacts:
        broken.append("nothing was exported: no device profile uses this tier")
    publish = not broken and (publish_anyway or not figures)
    if publish and figures:
        figures = [f"published all the same, as the configuration asks: {reason}" for reason in figures]
    return Verdict(publish, (*broken, *figures, *warnings), result.artifacts)


def _model_reasons(result: JobResult) -> Iterator[str]:
    if not is_judgeable(result.held_out_clips, result.held_out_words):
        yield (
            f"too little to judge: {result.held_out_clips} held-out clips with {result.held_out_words} words, "
            f"needed are {MIN_JUDGED_CLIPS} and {MIN_JUDGED_WORDS}: record more"
        )
    elif result.versus_stock.high >= 0:
        yield f"not clearly better than the stock model ({_difference(result.versus_stock)})"
    published = result.versus_published
    if published and not is_judgeable(published.clips, published.words):
        yield (
            f"too little to compare with {result.published_release}: {published.clips} clips neither was trained on "
            f"({published.left_out} left out)"
        )
    elif published and (published.low > 0 or published.mean > WORSE):
        yield f"worse than {result.published_release}, which the devices have ({_difference(published)})"
    if result.tuned.loops > min(MAX_LOOPS, result.stock.loops):
        yield f"{result.tuned.loops:.1%} of its outputs run on in loops (stock: {result.stock.loops:.1%})"


def _artifact_reasons(artifact: ArtifactResult, result: JobResult, profile: Profile) -> Iterator[str]:
    scores = artifact.scores
    if scores is None:
        return
    size_mb = sum(file.size_bytes for file in artifact.files) / 1e6
    loss = scores.wer - artifact.checkpoint_wer
    missed = profile.missed(size_mb, loss, artifact.speed_x)
    if "max_size_mb" in missed:
        yield f"{artifact.profile}: {size_mb:.1f} MB, at most {profile.max_size_mb:g} MB are allowed (max_size_mb)"
    if "max_wer_loss" in missed:
        yield (
            f"{artifact.profile}: WER {scores.wer:.1%} in {artifact.runtime}, {loss:+.1%} against the checkpoint; "
            f"at most {profile.max_wer_loss:+.1%} is allowed (max_wer_loss)"
        )
    if scores.loops > max(MAX_LOOPS, result.tuned.loops):
        yield f"{artifact.profile}: {scores.loops:.1%} of its outputs run on in loops"


def _slowness(artifact: ArtifactResult, profile: Profile) -> Iterator[str]:
    if "min_speed_x" in profile.missed(0.0, 0.0, artifact.speed_x):
        yield f"{artifact.profile}: {artifact.speed_x:.1f} × real time, at least {profile.min_speed_x:g} × is wanted"


def _difference(difference: Difference) -> str:
    return (
        f"WER {difference.mean * 100:+.1f} points, 95 % interval {difference.low * 100:+.1f} to "
        f"{difference.high * 100:+.1f}, {difference.clips} clips"
    )


def _hint(artifact: ArtifactResult) -> str:
    return f" — {artifact.hint}" if artifact.hint else ""
