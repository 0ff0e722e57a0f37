"""The settings: read, refused with reasons, and written as the example that `idiolect init` leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from daemon.config import Config, Export, Recordings, Server, Training, example, load
from idiolect.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_no_file_means_the_defaults(file: Path) -> None:
    assert load(file) == Config()


def test_the_example_says_the_defaults(file: Path) -> None:
    file.write_text(example())
    assert load(file) == Config()


def test_the_example_says_any_configuration(file: Path, tmp_path: Path) -> None:
    config = Config(
        recordings=Recordings(folders=(tmp_path / 'a "b" \\ ü\n\x7f😀',), polling=True),
        training=Training(tiers=("nano",), epochs=2.5, learning_rate=1e-5, batch_size=8),
        export=Export(profiles=()),
        server=Server(port=0, label="Küche"),
        profiles={"android-futo": {"tier": "nano", "max_size_mb": 8}, "a b": {"enforce_speed": True}},
    )
    file.write_text(example(config), encoding="utf-8")
    assert load(file) == config


def test_every_setting_is_explained_in_the_example() -> None:
    text = example()
    for section in Config.model_fields.values():
        model = section.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        assert model.__doc__ is not None
        assert model.__doc__ in text
        for name, field in model.model_fields.items():
            assert field.description, name
            assert f"\n{name} = " in text or f"\n# {name} = " in text, name
    assert max(map(len, text.splitlines())) <= 100


def test_unset_settings_show_a_value_that_can_be_used(file: Path) -> None:
    file.write_text(example().replace("# epochs", "epochs").replace("# batch_size", "batch_size"))
    assert load(file).training.epochs == 3.0
    assert load(file).training.batch_size == 16


def test_folders_count_from_the_file_and_know_home(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file.write_text('[recordings]\nfolders = ["voice", "~/sync", "/srv/voice"]')
    assert load(file).recordings.folders == (tmp_path / "voice", Path("/home/me/sync"), Path("/srv/voice"))


def test_a_byte_order_mark_is_tolerated(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 0\r\n")
    assert load(file).server.port == 0


def test_whole_numbers_are_numbers(file: Path) -> None:
    file.write_text("[training]\nquiet_s = 5")
    assert load(file).training.quiet_s == 5.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[recordings]\nsettle = 1", "unknown key recordings.settle\ndid you mean settle_s? known here: folders, "),
        ("[recording]\npolling = true", "unknown key recording\ndid you mean recordings? known here: "),
        ("[server]\nzzz = 1", "unknown key server.zzz\nknown here: enabled, bind, "),
        ("[server]\nport = '8737'", 'server.port = "8737"\nexpected: a whole number'),
        ("[server]\nport = 70000", "server.port = 70000\nexpected: less than or equal to 65535"),
        ("[server]\nport = true", "server.port = true\nexpected: a whole number"),
        ("[server]\nenabled = 1", "server.enabled = 1\nexpected: true or false"),
        ("[training]\ntiers = 'tiny'", 'training.tiers = "tiny"\nexpected: a list'),
        ("[training]\ntiers = ['tiny', 3]", "training.tiers.1 = 3\nexpected: a text in quotes"),
        ("[training]\nepochs = 0", "training.epochs = 0\nexpected: greater than 0"),
        ("[training]\nepochs = nan", "training.epochs = NaN\nexpected: a finite number"),
        ("recordings = 3", "recordings = 3\nexpected: a section of its own, with the keys folders, "),
        ("[profiles]\nandroid-futo = 3", "profiles.android-futo = 3\nexpected: a table of keys and values"),
        ("[server\n", "is not TOML: "),
    ],
)
def test_what_cannot_be_used_is_named_with_what_can(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    file.mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*config\.toml"):
        load(file)


def test_a_file_that_is_not_text_is_named(file: Path) -> None:
    file.write_bytes(b"[server]\nlabel = '\xff'")
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 18\)"):
        load(file)
