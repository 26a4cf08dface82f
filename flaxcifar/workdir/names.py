"""Names of the files and folders in a workdir."""

CONFIG = "config.json"
LOCK = ".lock"

# A row an epoch: what the config determines, and how long it took.
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
TENSORBOARD = "tensorboard"

CHECKPOINTS = "checkpoints"
LATEST = f"{CHECKPOINTS}/latest"
BEST = f"{CHECKPOINTS}/best"

SUMMARY = "summary.json"
# float32 [N, classes]: the logits behind the test results.
TEST_LOGITS = "test_logits.npy"
REPORT = "report.html"
# The step and the training examples of a loss that is not finite.
NONFINITE = "nonfinite.json"

# A sweep's workdir has a run in every folder.
SWEEP = "sweep.json"
SWEEP_PLOT = "sweep.png"
SWEEP_BEST = "best.py"
