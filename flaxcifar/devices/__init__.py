"""Devices, processes and memory: all that knows pmap, shard_map and jax.distributed."""
