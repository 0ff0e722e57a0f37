"""Exports for transformers.js in transformers.js itself, where node and the package are at hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from exporters import export_to
from training.audio import decode

PARENT = Path(os.environ.get("IDIOLECT_NODE", "."))
"""The folder in which `npm install @huggingface/transformers` was run."""
SCRIPT = """
const [parent, models, dtype, ...clips] = process.argv.slice(1);
const { pipeline, env } = require('node:module').createRequire(parent + '/')('@huggingface/transformers');
env.allowRemoteModels = false;
env.localModelPath = models;
(async () => {
  const hear = await pipeline('automatic-speech-recognition', dtype, { dtype });
  for (const clip of clips) {
    const pcm = new Float32Array(require('node:fs').readFileSync(clip).buffer);
    const plain = await hear(pcm, { language: 'en', task: 'transcribe' });
    const stamped = await hear(pcm, { language: 'en', task: 'transcribe', return_timestamps: true });
    console.log(JSON.stringify([plain.text.trim(), stamped.chunks]));
  }
})();
"""

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        not (shutil.which("node") and (PARENT / "node_modules" / "@huggingface" / "transformers").is_dir()),
        reason="needs node, and @huggingface/transformers in node_modules here or in the folder $IDIOLECT_NODE",
    ),
]


@pytest.mark.parametrize(("quantization", "dtype"), [("fp32", "fp32"), ("int8", "q8"), ("fp16", "fp16")])
def test_transformers_js_says_what_the_checkpoint_says(
    nano: Path, voices: Path, tmp_path: Path, quantization: str, dtype: str
) -> None:
    from idiolect.transcriber import DecodingOptions
    from training.decode import CheckpointTranscriber

    export_to(nano, "onnx", quantization, tmp_path / dtype)
    checkpoint = CheckpointTranscriber(nano, threads=1)
    expected: list[str] = []
    files: list[Path] = []
    for name in ("human/digits_001.ogg", "synthetic/clip001.ogg"):
        pcm = decode(voices / name)
        files.append(tmp_path / f"{len(files)}.f32")
        files[-1].write_bytes(pcm.tobytes())
        expected.append(checkpoint.transcribe(pcm, DecodingOptions(audio_context="full")).text)
    command = ["node", "-e", SCRIPT, str(PARENT.resolve()), f"{tmp_path}/", dtype, *map(str, files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [text for text, _ in answers] == expected
    assert all(chunk["timestamp"][0] == 0 for _, (chunk, *_) in answers)
