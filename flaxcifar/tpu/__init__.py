"""Ahead-of-time compilation for TPUs, and what the compiled program costs."""
