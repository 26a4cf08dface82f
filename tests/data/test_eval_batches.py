import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flaxcifar.data.dataset import Split
from flaxcifar.data.eval_batches import eval_batches


@given(n=st.integers(0, 60), batch_size=st.integers(1, 25), seed=st.integers(0, 99))
def test_every_example_counts_once(n, batch_size, seed):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (80, 2, 3, 3), dtype=np.uint8)
    split = Split(images, random.integers(0, 9, 80, dtype=np.int32))
    indices = random.permutation(80)[:n].astype(np.int32)
    batches = list(eval_batches(split, indices, batch_size))
    assert len(batches) == -(-n // batch_size)
    for batch in batches:
        assert batch["image"].shape == (batch_size, 2, 3, 3)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        assert (batch["mask"].dtype, batch["mask"].shape) == (np.float32, (batch_size,))
        assert set(batch["mask"]) <= {0.0, 1.0}
        assert not batch["image"][batch["mask"] == 0].any()
    kept = [batch["mask"] == 1 for batch in batches]
    seen = [batch["image"][keep] for batch, keep in zip(batches, kept, strict=True)]
    labels = [batch["label"][keep] for batch, keep in zip(batches, kept, strict=True)]
    assert sum(len(part) for part in seen) == n
    if n:
        np.testing.assert_array_equal(np.concatenate(seen), split.images[indices])
        np.testing.assert_array_equal(np.concatenate(labels), split.labels[indices])


def test_processes_share_every_batch():
    split = Split(np.zeros((10, 1, 1, 3), np.uint8), np.arange(10, dtype=np.int32))
    whole = [batch["label"] for batch in eval_batches(split, np.arange(10), 8)]
    parts = [
        [batch["label"] for batch in eval_batches(split, np.arange(10), 8, slice(n, n + 4))]
        for n in (0, 4)
    ]
    assert [part.shape for part in parts[0]] == [(4,), (4,)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
