"""What every layer may use: registry, messages, labels, preprocessing, checkpoints."""
