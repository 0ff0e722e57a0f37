"""The finished model as a plain Hugging Face folder that old and new tools read."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.files import replacing_folder, write_json, write_text
from idiolect.whisper import LANGUAGES, MAX_TEXT_POSITIONS, SpecialTokens, special_tokens
from training import finetune_state, lora

if TYPE_CHECKING:
    from training.loop import Run

COPIED = ("*.json", "*.txt", "*.model")  # of the base folder: configuration, tokenizer, vocabulary
NOT_COPIED = ("model.safetensors.index.json", "config.json", "trainer_state.json")


def save_checkpoint(run: Run, base: Path, out: Path) -> None:
    """Write the folder `out` from the best weights, in float16, and the base's other files; drop its checkpoints."""
    model = run.model
    model.load_state_dict(finetune_state.load_best(run), strict=False)
    lora.merge(model)
    for name in finetune_state.LEFT_BEHIND:
        model.model.decoder._parameters.pop(name, None)
        model.model.encoder._parameters.pop(name, None)
    model.tie_weights()
    model.config.use_cache = True
    model.half()
    with replacing_folder(out) as folder:
        with finetune_state.as_os_error(folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Moving the following attributes")  # of OpenAI's configs, as it should be
            model.save_pretrained(folder, safe_serialization=True)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # like the others: the safetensors library lets nobody but the owner read
        config = json.loads((folder / "config.json").read_text())
        config["max_length"] = config["max_target_positions"]  # transformers writes null, which crashes converters
        write_json(folder / "config.json", config)
        for pattern in COPIED:
            for file in base.glob(pattern):
                if file.name not in NOT_COPIED:
                    shutil.copyfile(file, folder / file.name)
        _complete(folder, special_tokens(model.config.vocab_size))
    shutil.rmtree(run.state_dir.parent, ignore_errors=True)


def complete_generation(config: Mapping[str, Any], special: SpecialTokens) -> dict[str, Any]:
    """A generation_config with what apps read, where the base's lacks it; what it has stays."""
    ids: dict[str, Any] = {
        "max_length": MAX_TEXT_POSITIONS,
        "decoder_start_token_id": special.sot,
        "eos_token_id": special.eot,
        "pad_token_id": special.eot,
        "no_timestamps_token_id": special.no_timestamps,
        "is_multilingual": special.multilingual,
        "return_timestamps": False,
    }
    if special.multilingual:
        ids["lang_to_id"] = {f"<|{code}|>": special.language(code) for code in LANGUAGES[: special.n_languages]}
        ids["task_to_id"] = {"transcribe": special.transcribe, "translate": special.translate}
    complete = {**ids, **{name: value for name, value in config.items() if value is not None}}
    if not isinstance(complete["max_length"], int):
        complete["max_length"] = MAX_TEXT_POSITIONS
    return complete


def _complete(folder: Path, special: SpecialTokens) -> None:
    """Add the files and entries that older converters want and newer tools no longer write."""
    generation = folder / "generation_config.json"
    write_json(generation, complete_generation(json.loads(generation.read_text()), special))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    vocabulary = tokenizer["model"]["vocab"]
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["content"] not in vocabulary}
    if not (folder / "vocab.json").exists():
        write_text(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    if not (folder / "merges.txt").exists():
        write_text(folder / "merges.txt", "\n".join(("#version: 0.2", *merges, "")))
    if not (folder / "added_tokens.json").exists():
        write_json(folder / "added_tokens.json", added)
