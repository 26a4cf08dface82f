"""The training loop and everything it owns."""
