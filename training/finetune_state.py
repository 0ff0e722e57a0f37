"""A training run on disk: safetensors and JSON in one folder, each write whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.files import replacing_folder, write_json
from training import ctc, rows

if TYPE_CHECKING:
    from training.finetune import _Run

COPIED = ("*.json", "*.txt", "*.model")  # of the base folder: configuration, tokenizer, vocabulary
LEFT_BEHIND = (*rows.NAMES, *ctc.NAMES)  # parameters beside the model's own
POSITION = ("step", "judged_step", "best_errors", "train_s")
NOT_COPIED = ("model.safetensors.index.json", "config.json", "trainer_state.json")


def save_state(run: _Run) -> None:
    """Write weights, optimiser and position to `<state_dir>/latest`, replacing the previous one whole."""
    from safetensors.torch import save_file

    model = run.accelerator.unwrap_model(run.model)
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in _weights(model).items()}
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors |= {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    steps: dict[str, float] = {}
    for parameter, state in run.optimizer.state.items():
        name = names[parameter]
        steps[name] = float(state["step"])
        tensors[f"exp_avg.{name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"]
    with replacing_folder(run.state_dir / "latest") as folder:
        save_file(tensors, folder / "state.safetensors")
        write_json(
            folder / "state.json",
            {
                "fingerprint": run.fingerprint,
                **{name: getattr(run, name) for name in POSITION},
                "optimizer_steps": steps,
            },
        )
    run.reporter.metric(checkpoint_step=run.step)


def load_state(run: _Run) -> bool:
    """Continue from `<state_dir>/latest` where it belongs to this very run; True when it did."""
    import torch
    from safetensors.torch import load_file

    folder = run.state_dir / "latest"
    try:
        position = json.loads((folder / "state.json").read_text())
        if position["fingerprint"] != run.fingerprint:
            return False
        tensors = load_file(folder / "state.safetensors")
    except (OSError, ValueError, KeyError):
        return False
    model = run.accelerator.unwrap_model(run.model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"model.{name}"])
    for name, step in position["optimizer_steps"].items():
        run.optimizer.state[parameters[name]] = {
            "step": torch.tensor(step),
            "exp_avg": tensors[f"exp_avg.{name}"].to(parameters[name].device),
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameters[name].device),
        }
    for name in POSITION:
        setattr(run, name, position[name])
    run.reporter.metric(continued_at_step=run.step)
    return True


def save_best(run: _Run) -> None:
    """Keep the present weights, in float16, as the best so far."""
    from safetensors.torch import save_file

    model = run.accelerator.unwrap_model(run.model)
    with replacing_folder(run.state_dir / "best") as folder:
        save_file({name: tensor.half() for name, tensor in _weights(model).items()}, folder / "best.safetensors")


def save_checkpoint(run: _Run, base: Path, out: Path) -> None:
    """Write the Hugging Face folder `out` from the best weights and the base's own tokenizer files; drop the state."""
    from safetensors.torch import load_file

    model = run.accelerator.unwrap_model(run.model)
    best = load_file(run.state_dir / "best" / "best.safetensors")
    for name in LEFT_BEHIND:
        model.model.decoder._parameters.pop(name, None)
        model.model.encoder._parameters.pop(name, None)
    model.load_state_dict(best, strict=False)
    model.tie_weights()
    model.config.use_cache = True
    model.half()
    with replacing_folder(out) as folder:
        model.save_pretrained(folder, safe_serialization=True)
        config = json.loads((folder / "config.json").read_text())
        config["max_length"] = config["max_target_positions"]  # transformers writes null, which crashes converters
        write_json(folder / "config.json", config)
        for pattern in COPIED:
            for file in base.glob(pattern):
                if file.name not in NOT_COPIED:
                    shutil.copyfile(file, folder / file.name)
    shutil.rmtree(run.state_dir, ignore_errors=True)


def _weights(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Named tensors without the output projection, which is the token embedding again, nor what only training needs."""
    return {k: v for k, v in model.state_dict().items() if k != "proj_out.weight" and not k.endswith(LEFT_BEHIND)}
