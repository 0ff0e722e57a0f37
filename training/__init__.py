"""Speech and models: recordings to clips, clips to a fine-tuned checkpoint, checkpoints to scores."""
