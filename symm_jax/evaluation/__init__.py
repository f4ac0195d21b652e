"""Evaluation: embeds the test classes with saved checkpoints and measures them. It only reads checkpoints."""
