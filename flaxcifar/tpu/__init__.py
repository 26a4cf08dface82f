"""Ahead-of-time compilation for TPUs, and estimates of memory and step time."""
