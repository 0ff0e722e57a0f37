from __future__ import annotations

import re

import pytest

from idiolect import errors
from idiolect.errors import ConfigError, IdiolectError, MissingExtra, UsageError, VerificationFailed, require


def classes() -> dict[str, type[IdiolectError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, IdiolectError)
    }


def test_the_tree_drawn_is_the_tree_there_is() -> None:
    """Depth in the drawing (four characters a level) against the depth of inheritance, and the parent above it."""
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([│├└─ ]*)([A-Z][A-Za-z]+)", line):
            depth = len(match[1]) // 4
            path = [*path[:depth], match[2]]
            drawn[match[2]] = path[-2] if depth else "Exception"
    drawn.pop("Every")
    assert drawn == {name: cls.__base__.__name__ for name, cls in classes().items() if cls.__base__}


def test_message_and_hint() -> None:
    error = ConfigError("config.toml: port = 99999 is too high", "expected 0 to 65535")
    assert (error.message, error.hint) == ("config.toml: port = 99999 is too high", "expected 0 to 65535")
    assert str(error) == "config.toml: port = 99999 is too high\nexpected 0 to 65535"
    assert str(UsageError("only this")) == "only this"
    assert error.kind == "ConfigError"


def test_exit_codes() -> None:
    assert ConfigError("").exit_code == UsageError("").exit_code == 2
    assert VerificationFailed("").exit_code == 5
    assert all(cls.exit_code > 0 for cls in classes().values())


def test_a_missing_extra_says_how_to_install_it() -> None:
    require("json", "train")
    with pytest.raises(MissingExtra) as caught:
        require("no_such_package_here", "train")
    assert caught.value.hint == 'install it with: pip install "idiolect[train]"'
    assert "no_such_package_here" in caught.value.message
    assert (caught.value.extra, caught.value.package) == ("train", "no_such_package_here")
