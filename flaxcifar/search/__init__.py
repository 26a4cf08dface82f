"""Several runs of one config: seeds and hyper-parameter sweeps."""
