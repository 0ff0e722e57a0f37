"""idiolect: Whisper models fine-tuned on one voice, pulled from the house's own service."""
