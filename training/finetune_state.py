"""A training run on disk: safetensors and JSON in one folder, each write whole or not at all, the one before kept."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.errors import JobError
from idiolect.files import replacing_folder, write_json
from training import ctc, rows

if TYPE_CHECKING:
    from training.loop import Run

LEFT_BEHIND = (*rows.NAMES, *ctc.NAMES)  # parameters beside the model's own
POSITION = ("step", "judged_step", "best_errors", "train_s", "rate_x")
_NEWEST_FIRST = ("next", "latest", "previous")  # "next" stands only between two renames


@contextlib.contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """A full disk is an OSError, also where safetensors has an error of its own for it."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def folder_name(fingerprint: Mapping[str, str]) -> str:
    """A folder of its own for each training, so that one with other settings leaves its checkpoints alone."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]


def save_state(run: Run) -> None:
    """Write weights, optimiser and position to `<state_dir>/latest`; what was there becomes `previous`."""
    from safetensors.torch import save_file

    names = {parameter: name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    tensors = {f"model.{name}": parameter.detach().contiguous() for parameter, name in names.items()}
    steps: dict[str, float] = {}
    for parameter, state in run.optimizer.state.items():
        name = names[parameter]
        steps[name] = float(state["step"])
        tensors[f"exp_avg.{name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"]
    tensors |= {f"mean.{name}": mean for name, mean in zip(names.values(), run.average.means, strict=False)}
    next_, latest, previous = (run.state_dir / name for name in _NEWEST_FIRST)
    position = {name: getattr(run, name) for name in POSITION}
    scaler = run.accelerator.scaler.state_dict() if run.accelerator.scaler else None
    with replacing_folder(next_) as folder:
        with as_os_error(folder):
            save_file(tensors, folder / "state.safetensors")
        write_json(
            folder / "state.json",
            {
                "fingerprint": run.fingerprint,
                **position,
                "optimizer_steps": steps,
                "scaler": scaler,
                "word_cuts": run.splicer.cuts,
                "averaged": run.average.count,
            },
        )
    if latest.exists() and run.is_latest_whole:
        shutil.rmtree(previous, ignore_errors=True)
        latest.rename(previous)
    elif latest.exists():
        shutil.rmtree(latest)
    next_.rename(latest)
    run.is_latest_whole = True
    run.reporter.metric(checkpoint_step=run.step)


def load_state(run: Run) -> bool:
    """Continue from the newest whole checkpoint of this very run; True when there is one.

    A checkpoint of another run, which stays, or one that is damaged, is told. Raises JobError where one cannot be
    read, and where several processes do not find the same one.
    """
    _sweep(run)
    found = _newest(run)
    if found:
        folder, position, tensors = found
        _restore(run, position, tensors)
        run.is_latest_whole = folder.name != "previous"  # a damaged one shall not take its place
        run.reporter.metric(continued_at_step=run.step)
    elif not run.state_dir.exists():
        _tell_of_others(run)
    if run.processes.sum(run.step) != [run.step * run.processes.count]:
        raise JobError(
            f"process {run.processes.rank} continues at step {run.step}, others elsewhere",
            f"put {run.state_dir.parents[1]} where every machine sees it",
        )
    return found is not None


def save_best(run: Run) -> None:
    """Keep the present weights, in float16, as the best so far."""
    from safetensors.torch import save_file

    with replacing_folder(_best(run).parent) as folder, as_os_error(folder):
        save_file({name: tensor.half() for name, tensor in _weights(run).items()}, folder / _best(run).name)


def load_best(run: Run) -> dict[str, Any]:
    """The weights that `save_best` kept."""
    from safetensors.torch import load_file

    return dict(load_file(_best(run)))


def needed_bytes(n_parameters: int, n_trained: int) -> int:
    """Disk space of a run: three checkpoints while one is written, the best weights, the finished model."""
    return 3 * 16 * n_trained + 2 * n_parameters + 2 * n_parameters


def _best(run: Run) -> Path:
    return run.state_dir / "best" / "best.safetensors"


def _sweep(run: Run) -> None:
    """Remove what a killed process was writing, and put back what it had not replaced yet."""
    if run.processes.main:
        for old in run.state_dir.parent.glob("*/.*.old"):
            place = old.with_name(old.name.split(".")[1])
            if not place.exists():
                old.rename(place)
        for pattern in ("*/.*.tmp", "*/.*.old"):
            for left in run.state_dir.parent.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)


def _newest(run: Run) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
    """Folder, position and tensors of the newest checkpoint that is whole and this run's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folders = [folder for name in _NEWEST_FIRST if (folder := run.state_dir / name).is_dir()]
    for folder in folders:
        try:
            position = json.loads((folder / "state.json").read_text())
            tensors = load_file(folder / "state.safetensors")
            if _needed(run, position) <= tensors.keys():
                return folder, position, tensors
            reason = "tensors are missing"
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}"
        except OSError as error:  # which may pass, and then it is whole
            raise JobError(
                f"{folder} cannot be read: {error.strerror or error}", "make it readable; the same command goes on"
            ) from error
        instead = "the training starts from the beginning" if folder == folders[-1] else "the one before it is tried"
        run.reporter.warning(f"{folder} is damaged ({reason}): {instead}; if that comes again, check the disk")
    return None


def _needed(run: Run, position: dict[str, Any]) -> set[str]:
    """Tensors that go with a checkpoint's position. Raises KeyError where that itself lacks something."""
    _ = [position[name] for name in (*POSITION, "scaler", "word_cuts")]
    trained = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
    moments = {f"{kind}.{name}" for name in position["optimizer_steps"] for kind in ("exp_avg", "exp_avg_sq")}
    means = {f"mean.{name}" for name in trained} if position["averaged"] else set()
    return {f"model.{name}" for name in trained} | moments | means


def _tell_of_others(run: Run) -> None:
    """Checkpoints of trainings with other settings stay until one of them ends."""
    for path in sorted(run.state_dir.parent.glob("*/latest/state.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            theirs = json.loads(path.read_text())["fingerprint"]
            other = " and ".join(name for name, value in run.fingerprint.items() if theirs.get(name) != value)
            run.reporter.warning(
                f"{path.parents[1]} was trained with other {other}: the training starts from the beginning "
                "(to go on with that one, give it the same again)"
            )


def _restore(run: Run, position: dict[str, Any], tensors: dict[str, Any]) -> None:
    import torch
    from safetensors import SafetensorError

    parameters = dict(run.model.named_parameters())
    names = [name for name, parameter in parameters.items() if parameter.requires_grad]
    with torch.no_grad():
        for name in names:
            parameters[name].copy_(tensors[f"model.{name}"])
    for name, step in position["optimizer_steps"].items():
        run.optimizer.state[parameters[name]] = {
            "step": torch.tensor(step, device=parameters[name].device),  # where fused AdamW reads it
            "exp_avg": tensors[f"exp_avg.{name}"].to(parameters[name].device),
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameters[name].device),
        }
    if run.accelerator.scaler and position["scaler"]:
        run.accelerator.scaler.load_state_dict(position["scaler"])
    if position["averaged"]:
        run.average.restore(position["averaged"], [tensors[f"mean.{name}"] for name in names])
    if position["word_cuts"]:
        run.splicer.restore(position["word_cuts"])
    for name in POSITION:
        setattr(run, name, position[name])
    run.saved_step = run.step
    try:
        load_best(run)
    except (OSError, SafetensorError) as error:  # a process that is killed between two renames leaves none
        if run.best_errors < math.inf:
            run.reporter.warning(
                f"{_best(run)} is lost or damaged ({error}): the best of the weights to come are taken"
            )
        run.best_errors = math.inf


def _weights(run: Run) -> dict[str, Any]:
    """Named tensors that training changed, without what only training needs.

    The output projection is the token embedding again; the embedding's rows are written back before this is called.
    """
    changed = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    changed.add("model.decoder.embed_tokens.weight")
    return {k: v for k, v in run.model.state_dict().items() if k in changed and not k.endswith(LEFT_BEHIND)}
