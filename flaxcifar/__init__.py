"""A trainer for small-image classifiers in JAX and Flax."""

__version__ = "0.2.0"
