"""Many runs of one config: seeds and sweeps."""
