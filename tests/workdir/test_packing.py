import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flaxcifar.workdir import packing

dtypes = st.sampled_from([np.float32, np.int32, np.uint32, np.bool_, ml_dtypes.bfloat16])
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@given(st.dictionaries(st.text(), st.tuples(dtypes, shapes)), st.integers(1, 100))
def test_arrays_come_back_to_the_bit(wanted, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PART", most)
        rng = np.random.default_rng(0)
        arrays = {
            name: rng.integers(0, 2, shape).astype(dtype) for name, (dtype, shape) in wanted.items()
        }
        packed, layout = packing.pack(arrays)
    found = dict(packing.unpack(packed, layout))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert layout[name][:2] == (array.dtype.name, list(array.shape))


def test_parts_have_a_size_and_share_no_memory_with_the_arrays():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PART", 40)
        arrays = {str(n): np.full(size, n, np.float32) for n, size in enumerate([4, 6, 1, 20, 2])}
        packed, layout = packing.pack(arrays)
    assert [part.size for part in packed.values()] == [10, 1, 20, 2]
    assert not any(np.shares_memory(a, b) for a in arrays.values() for b in packed.values())
