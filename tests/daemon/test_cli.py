"""The console commands as a user runs them: what they print, how they fail, what they leave."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import device_profiles
from daemon import config
from daemon.home import export_model
from daemon.paths import Paths
from exporters import export_file
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import RuntimeFailed

pytestmark = pytest.mark.slow


def idiolect(*arguments: str | Path, home: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command in a process of its own; errors never show a traceback."""
    command = [sys.executable, "-m", "daemon.cli", *map(str, arguments)]
    environment = {**os.environ, "IDIOLECT_HOME": str(home), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_init_writes_settings_that_are_the_defaults_and_says_what_to_do(home: Path) -> None:
    done = idiolect("init", home=home)
    assert done.returncode == 0
    assert f"idiolect --home {home} models fetch tiny small" in done.stdout
    assert config.load(home / "config.toml") == config.Config()
    assert (home / "recordings").is_dir()
    (home / "config.toml").write_text('[training]\ntiers = ["nano"]\n')
    again = idiolect("init", home=home)
    assert "kept as it is" in again.stdout
    assert "stock models are here" in again.stdout


def test_home_counts_wherever_it_stands(home: Path, tmp_path: Path) -> None:
    for arguments in (["--home", home, "init"], ["init", "--home", home], ["init", f"--home={home}"]):
        assert idiolect(*arguments, home=tmp_path / "unused").returncode == 0
        shutil.rmtree(home)
    assert not (tmp_path / "unused").exists()


@pytest.mark.torch
def test_an_export_is_named_after_what_it_is_and_replaces_nothing_unasked(home: Path, tmp_path: Path) -> None:
    command = ["export", "nano", "--profile", "android-futo", "--quant", "q5_0"]
    made = idiolect(*command, home=home, cwd=tmp_path)
    assert made.returncode == 0
    assert "; loads in whisper.cpp 1." in made.stdout
    assert [path.name for path in tmp_path.glob("*.bin")] == ["idiolect-nano-q5_0.bin"]
    again = idiolect(*command, home=home, cwd=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert idiolect(*command, "--outfile", "idiolect-nano-q5_0.bin", home=home, cwd=tmp_path).returncode == 0


@pytest.mark.torch
def test_gguf_for_futo_is_refused_unless_forced(home: Path, tmp_path: Path) -> None:
    command = ["export", "nano", "--profile", "android-futo", "--format", "gguf", "--outfile", str(tmp_path / "m.gguf")]
    done = idiolect(*command, home=home)
    assert done.returncode == 2
    assert "FUTO does not read GGUF" in done.stderr
    assert not (tmp_path / "m.gguf").exists()
    assert idiolect(*command, "--force", home=home).returncode == 0
    assert (tmp_path / "m.gguf").read_bytes()[:4] == b"GGUF"
    assert idiolect(*command[:-2], "--force", home=home, cwd=tmp_path).returncode == 0
    assert (tmp_path / "idiolect.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.torch
def test_an_export_larger_than_its_profile_takes_is_not_left(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[profiles.android-futo]\nmax_size_mb = 5\n")
    command = ["export", "nano", "--profile", "android-futo"]
    earlier = tmp_path / "earlier.bin"
    earlier.write_text("what stood there before")
    for outfile in ((), ("--outfile", str(earlier))):
        done = idiolect(*command, *outfile, home=home, cwd=tmp_path)
        assert done.returncode == 1
        assert "more than the 5 MB (max_size_mb) of profile android-futo" in done.stderr
    assert set(tmp_path.iterdir()) == {home, earlier}
    assert earlier.read_text() == "what stood there before"
    earlier.unlink()
    assert idiolect(*command, "--force", home=home, cwd=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.glob("*.bin")] == ["idiolect-nano-q4_0.bin"]


def _exported(home: Path, outfile: Path, force: bool = False) -> list[str]:
    """What an export of nano warned of."""
    seen: list[Message] = []
    reporter = CallbackReporter(seen.append)
    export_model(Paths.at(home), "nano", None, "ggml", "q4_0", outfile, reporter, force)
    return [message.data["message"] for message in seen if message.kind == "warning"]


@pytest.mark.torch
def test_an_export_takes_the_place_of_files_links_and_empty_folders(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.home._loaded", lambda *_: None)  # which other tests hear
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(kept)
    for name in ("file", "empty", "link"):
        export_model(Paths.at(home), "nano", None, "huggingface", "float16", tmp_path / name, Reporter(), force=True)
        assert (tmp_path / name / "model.safetensors").is_file()
        assert not (tmp_path / name).is_symlink()
    assert not list(kept.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "file", "empty", "link"} | {home.name}


@pytest.mark.torch
def test_an_export_whose_runtime_is_not_here_says_how_to_get_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (told,) = _exported(home, tmp_path / "me.bin")
    assert "was not loaded" in told
    assert 'pip install "idiolect[whispercpp]"' in told
    assert (tmp_path / "me.bin").exists()


@pytest.mark.torch
def test_an_export_that_its_runtime_refuses_is_not_left(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:  # noqa: ANN401
        raise RuntimeFailed(f"whisper.cpp was killed by SIGABRT while loading {path.name}")

    monkeypatch.setattr("exporters.load", refuse)
    (tmp_path / "me.bin").write_text("what stood there before")
    with pytest.raises(RuntimeFailed, match="killed by SIGABRT") as caught:
        _exported(home, tmp_path / "me.bin")
    assert "--force keeps it" in caught.value.hint
    assert (tmp_path / "me.bin").read_text() == "what stood there before"
    assert "killed by SIGABRT" in _exported(home, tmp_path / "me.bin", force=True)[0]
    assert (tmp_path / "me.bin").stat().st_size > 1_000_000


def test_one_file_takes_the_place_of_no_folder(home: Path, tmp_path: Path) -> None:
    done = idiolect("export", "nano", "--format", "gguf", "--quant", "q8_0", "--outfile", tmp_path, home=home)
    assert done.returncode == 2
    assert "is a folder, and gguf is one file" in done.stderr


def test_an_export_replaces_no_folder_with_something_in_it(home: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").touch()
    done = idiolect("export", "nano", "--profile", "browser-onnx", "--outfile", site, home=home)
    assert done.returncode == 2
    assert "is a folder with something in it" in done.stderr
    assert [path.name for path in site.iterdir()] == ["index.html"]


def test_status_json_has_what_programs_may_read(home: Path) -> None:
    idiolect("init", home=home)
    status = json.loads(idiolect("status", "--json", home=home).stdout)
    assert status["recordings_folder"] == str(home / "recordings")
    assert status["recordings"]["ready"] == status["recordings"]["waiting"] == status["recordings"]["rejected"] == 0
    assert status["next"]["reason"]
    assert status["runs"] == status["releases"] == []
    assert "no daemon is running" in idiolect("status", home=home).stdout


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[training]\nteirs = []\n", "did you mean tiers"),
        ("[server]\nport = 'x'\n", 'server.port = "x"'),
        ("[training\n", "is not TOML"),
    ],
)
def test_a_bad_config_is_refused_with_file_key_and_value(home: Path, toml: str, said: str) -> None:
    home.mkdir()
    (home / "config.toml").write_text(toml)
    done = idiolect("run", home=home)
    assert done.returncode == 2
    assert str(home / "config.toml") in done.stderr
    assert said in done.stderr


def test_a_look_makes_no_home(home: Path) -> None:
    for command in (["status"], ["runs"], ["doctor"], ["coverage"], ["status", "--json"]):
        assert idiolect(*command, home=home).returncode in {1, 2}
        assert not home.exists()


def test_a_run_that_is_not_there(home: Path) -> None:
    idiolect("init", home=home)
    assert "no run is called '7'" in idiolect("runs", "show", "7", home=home).stderr


def test_wer_of_two_files(home: Path, tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_text("call anna\nseven three\n")
    (tmp_path / "heard.txt").write_text("Call Anna!\nseven tree\n")
    rates = json.loads(idiolect("wer", tmp_path / "said.txt", tmp_path / "heard.txt", "--json", home=home).stdout)
    assert rates["wer"] == 0.25
    assert (rates["normalizer"], rates["words"], rates["substitutions"]) == ("basic", 4, 1)
    missing = idiolect("wer", tmp_path / "said.txt", tmp_path / "no.txt", home=home)
    assert missing.returncode == 2
    assert "cannot read" in missing.stderr


def test_models_and_profiles_are_listed(home: Path) -> None:
    models = json.loads(idiolect("models", "--json", home=home).stdout)
    assert [m["tier"] for m in models][:2] == ["nano", "tiny"]
    assert models[0]["cached"] is True
    profiles = json.loads(idiolect("profiles", "--json", home=home).stdout)
    assert {p["name"] for p in profiles} == set(device_profiles.load())
    told = " ".join(idiolect("profiles", home=home).stdout.split())
    for name, profile in device_profiles.load().items():
        assert name in told
        assert f"at most {profile.max_size_mb:g} MB" in told
        assert f"{profile.min_speed_x:g} × real time" in told
        assert " ".join(profile.description.split()) in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs", "show", "7"], "there is no idiolect home at"),
        (["status", "--home", "tpyo"], "there is no idiolect home at"),
        (["train", "--now", "--epochs", "3", "--lora"], "--epochs, --lora does nothing with --now"),
        (["prompts"], "does not exist yet"),
        (["record", "nowhere.txt"], "cannot read nowhere.txt"),
        (["reload"], "no daemon is running"),
        (["backup", "b.tar"], "there is nothing to keep"),
        (["restore", "b.tar"], "cannot read b.tar"),
        (["service", "uninstall"], "no service is installed"),
        (["train", "--now"], "no daemon is running"),
        (["train", "--model", "nano", "--data", "nowhere", "--output", "out"], "no such folder"),
        (["train", "--model", "nano"], "--data is missing"),
        (["export", "nano"], "what to export is not said"),
        (["export", "nano", "--format", "onnx"], "choose one of fp32, fp16, int8"),
        (["export", "nano", "--profile", "nope"], "choose one of android-futo"),
        (["export", "nano", "--format", "ggml", "--quant", "q9"], "q9"),
        (["models", "fetch", "tinny"], "no base model is called 'tinny'"),
        (["models", "fetch", "openai/whisper--tiny"], "no base model is called 'openai/whisper--tiny'"),
        (["wer", "--", "-a.txt", "-b.txt"], "cannot read -a.txt"),
        (["transcribe", "nowhere.wav", "--model", "nano"], "nowhere.wav"),
        (["evaluate", "nano", "--data", "nowhere"], "no such folder"),
        (["pull", "--profile", "../x"], "no profile is called '../x'"),
        (["init", "--home", ""], "--home '' is no folder"),
        (["status", "--home"], "--home '' is no folder"),
        (["evaluate", "nano", "--data", ".", "--html", "nowhere/report.html"], "cannot write nowhere/report.html"),
        (["evaluate", "nano", "--data", ".", "--vocabulary", "."], "cannot read ."),
    ],
)
@pytest.mark.torch
def test_mistakes_end_in_a_message_and_a_status(home: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = idiolect(*arguments, home=home, cwd=tmp_path)
    assert done.returncode in {1, 2, 3}
    assert said in done.stderr.replace("\n", " ")
    assert "→" in done.stderr


def test_version(home: Path) -> None:
    done = idiolect("--version", home=home)
    assert (done.returncode, done.stdout.split()[0]) == (0, "idiolect")


@pytest.mark.torch
@pytest.mark.whispercpp
def test_a_bad_file_does_not_keep_the_others_from_being_heard(
    home: Path, nano: Path, tmp_path: Path, voices: Path
) -> None:
    export_file(nano, "ggml", "q4_0", tmp_path / "nano.bin")
    (tmp_path / "empty.wav").touch()
    good = next((voices / "human").glob("*.ogg"))
    done = idiolect(
        "transcribe", "nowhere.wav", "empty.wav", good, "--model", "nano.bin", "--json", home=home, cwd=tmp_path
    )
    assert done.returncode == 1
    missing, empty, heard = json.loads(done.stdout)["results"]
    assert "no such file" in missing["error"]
    assert "empty" in empty["error"]
    assert heard["text"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_commands(home: Path, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # there may be no shell above this
    assert "complete" in idiolect("--show-completion", shell, home=home).stdout
    command = [sys.executable, "-c", "from daemon.cli import app; app(prog_name='idiolect')"]
    asked = {"_IDIOLECT_COMPLETE": f"complete_{shell}", "COMP_WORDS": "idiolect doc", "COMP_CWORD": "1"}
    asked |= {"_TYPER_COMPLETE_ARGS": "idiolect doc", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert "doctor" in done.stdout


def test_help_names_every_command(home: Path) -> None:
    text = idiolect("--help", home=home).stdout
    for command in ("doctor", "service", "prompts", "record", "coverage", "backup", "restore", "reload"):
        assert command in text
    for command in ("pair", "devices", "revoke", "check", "align", "draft"):
        assert command in text
    for command in ("init", "run", "status", "runs", "train", "evaluate", "export", "transcribe", "wer", "pull"):
        assert command in text


@pytest.mark.torch
@pytest.mark.whispercpp
def test_train_evaluate_export_transcribe_by_hand(home: Path, tmp_path: Path, voices: Path) -> None:
    rows = [json.loads(line) for line in (voices / "human" / "metadata.jsonl").read_text().splitlines()[:12]]
    for index, row in enumerate(rows):
        folder = tmp_path / "dataset" / ("validation" if index % 3 == 0 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(voices / "human" / row["file_name"], folder / f"audio{index:03d}.ogg")
        (folder / f"audio{index:03d}.txt").write_text(row["text"])
    done = idiolect(
        *("train", "--model", "nano", "--data", tmp_path / "dataset", "--epochs", "1", "--batch-size", "16"),
        *("--learning-rate", "1e-5", "--output", tmp_path / "me", "--json"),
        home=home,
    )
    trained = json.loads(done.stdout)
    assert [result["model"] for result in trained["results"]] == ["nano", str(tmp_path / "me")]
    assert trained["results"][0]["clips"] == 4
    assert (
        idiolect(
            "train", "--model", "nano", "--data", tmp_path / "dataset", "--output", tmp_path / "me", home=home
        ).returncode
        == 2
    )

    file = tmp_path / "me.bin"
    idiolect("export", tmp_path / "me", "--format", "ggml", "--quant", "q5_0", "--outfile", file, home=home)
    page = tmp_path / "report.html"
    arguments = ("--data", tmp_path / "dataset", "--against", "nano", "--noise-db", "10", "--html", page)
    done = idiolect("evaluate", file, tmp_path / "me", *arguments, "--json", home=home)
    results = json.loads(done.stdout)["results"]
    assert [result["model"] for result in results] == [str(file), str(tmp_path / "me"), "nano"]
    assert {"clips", "wer", "cer", "wer_english", "normalizer", "loops", "rtf"} <= results[0].keys()
    assert all(result["wer"] < 0.5 for result in results)
    assert results[0]["versus"]["verdict"] == "too little to judge"  # 4 clips
    assert results[0]["size_bytes"] == file.stat().st_size
    assert str(page) in done.stderr
    assert page.read_text().startswith("<!doctype html>")

    audio = tmp_path / "dataset" / "validation" / "audio000.ogg"
    heard = json.loads(idiolect("transcribe", audio, "--model", file, "--json", home=home).stdout)
    assert len(heard["results"][0]["text"].split()) > 2
