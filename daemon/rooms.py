"""The rooms of one home, opened together: what every step of the resident process needs."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import device_profiles
from daemon.config import Config, Recordings
from daemon.intake.library import Library
from daemon.paths import Paths
from daemon.sync.devices import Devices
from daemon.sync.identity import Identity
from daemon.sync.inbox import Inbox, Quota
from daemon.sync.publishing import untried
from daemon.sync.releases import ReleaseStore
from device_profiles import Profile
from idiolect.errors import ConfigError
from training import base_models


@dataclass(frozen=True)
class Rooms:
    """`profiles` holds those that [export] profiles names. Open it with the home's lock held."""

    paths: Paths
    config: Config
    library: Library
    store: ReleaseStore
    identity: Identity
    devices: Devices
    inbox: Inbox
    profiles: Mapping[str, Profile]

    @classmethod
    @contextlib.contextmanager
    def opened(cls, paths: Paths, config: Config) -> Iterator[Rooms]:
        """Check the configuration against what exists and open library and store. Raises ConfigError."""
        profiles = _chosen_profiles(paths, config)
        _check_tiers(paths, config)
        with contextlib.ExitStack() as closing:
            library = Library(paths.library_db)
            closing.callback(library.close)
            devices = Devices(paths.devices_db)
            closing.callback(devices.close)
            identity = Identity(paths.keys)
            store = ReleaseStore(paths.store, identity.id)
            recordings = (config.recordings.folders or (paths.recordings,))[0]
            inbox = Inbox(paths.inbox, recordings, _quota(config.recordings))
            closing.callback(inbox.close)
            yield cls(paths, config, library, store, identity, devices, inbox, profiles)

    @staticmethod
    def check(paths: Paths, config: Config) -> None:
        """Raise ConfigError where `opened` would, and open nothing."""
        _chosen_profiles(paths, config)
        _check_tiers(paths, config)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The watched folders."""
        return self.config.recordings.folders or (self.paths.recordings,)

    def run_dir(self, run_id: str) -> Path:
        """The folder that this run's job writes."""
        return self.paths.runs / run_id

    def is_cached(self, tier: str) -> bool:
        """Whether the tier's stock weights are on this machine."""
        return base_models.is_cached(self.config.base(tier), self.paths.cache)

    def warnings(self) -> list[str]:
        """What in the configuration will not do what the user may expect."""
        tiers, profiles = self.config.training.tiers, self.profiles.values()
        said = []
        for tier in tiers:
            if not any(profile.tier == tier for profile in profiles):
                said.append(
                    f"no profile in [export] profiles is for tier {tier}: it is trained, but nothing is exported"
                )
        said += [
            f"profile {profile.name} is for tier {profile.tier}, which [training] tiers does not name: never exported"
            for profile in profiles
            if profile.tier not in tiers
        ]
        if self.config.publish.anyway:
            said.append("[publish] anyway is on: models are published even when they did not prove better")
        return said + untried(self.store.manifest, self.config.publish.canary)


def _quota(settings: Recordings) -> Quota:
    return Quota(
        round(settings.max_gb_per_device * 1e9), round(settings.max_gb_sent * 1e9), round(settings.min_free_gb * 1e9)
    )


def _chosen_profiles(paths: Paths, config: Config) -> dict[str, Profile]:
    known = device_profiles.load(paths.profiles_dir, config.profiles, paths.config_file)
    for key, names in (("export", config.export.profiles), ("desktop", config.desktop.profiles)):
        for name in names:
            if name not in known:
                raise _unknown(paths, f"{key}.profiles", name, list(known))
    return {name: known[name] for name in config.export.profiles}


def _check_tiers(paths: Paths, config: Config) -> None:
    known = [*base_models.TIERS, *config.training.bases]
    for tier in config.training.tiers:
        if tier not in known:
            raise _unknown(paths, "training.tiers", tier, known)


def _unknown(paths: Paths, key: str, value: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return ConfigError(f'{paths.config_file}: {key} names "{value}"', f"{hint}known: {', '.join(known)}")
