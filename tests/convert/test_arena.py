from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import keras_door as kd
from tfcompress.convert.arena import Buffer, arena_bytes, plan
from tfcompress.vocabulary.errors import ConversionError

OFFICIAL = Path(__file__).parents[3] / "shared" / "models" / "mlperf_tiny_ic"

buffers = st.builds(
    lambda size, first, length: Buffer(16 * size, first, first + length),
    st.integers(1, 50),
    st.integers(0, 12),
    st.integers(0, 6),
)


def _peak(needs):
    """The most that is alive at one time: no plan needs less."""
    alive = np.zeros(40)
    for need in needs:
        alive[need.first : need.last + 1] += need.size
    return alive.max()


def _extent(needs, offsets):
    return max(offset + need.size for need, offset in zip(needs, offsets, strict=True))


@given(st.lists(buffers, min_size=1, max_size=25))
def test_tensors_that_live_together_never_overlap(needs):
    offsets = plan(needs)
    memory = {}
    for index, (need, offset) in enumerate(zip(needs, offsets, strict=True)):
        assert offset >= 0
        assert offset % 16 == 0
        for moment in range(need.first, need.last + 1):
            for cell in range(offset, offset + need.size, 16):
                assert memory.setdefault((moment, cell), index) == index
    assert _peak(needs) <= _extent(needs, offsets) <= sum(need.size for need in needs)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=20))
def test_a_chain_that_narrows_needs_its_two_largest_neighbours(sizes):
    sizes = 16 * np.sort(sizes)[::-1]
    needs = [Buffer(int(size), max(step - 1, 0), step) for step, size in enumerate(sizes)]
    assert _extent(needs, plan(needs)) == sizes[0] + sizes[1] == _peak(needs)


def test_greedy_is_not_always_the_least():
    # The two large ends both take the bottom, and the small ones between them cannot: 64 where 48 would do.
    needs = [Buffer(32, 0, 0), Buffer(16, 0, 1), Buffer(16, 1, 2), Buffer(32, 2, 3)]
    assert (_extent(needs, plan(needs)), _peak(needs)) == (64, 48)


def test_a_gap_is_filled():
    # The last one fits exactly into the place that the first has left below the second.
    needs = [Buffer(64, 0, 1), Buffer(48, 0, 3), Buffer(64, 2, 3)]
    assert plan(needs) == [0, 64, 0]


def test_nothing_needs_nothing():
    assert plan([]) == []


def _convert(function, *shapes):
    specs = [kd.tf.TensorSpec(shape, "float32") for shape in shapes]
    concrete = kd.tf.function(function).get_concrete_function(*specs)
    return kd.tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


def test_a_chain_of_operators():
    content = _convert(lambda x: kd.tf.exp(kd.tf.tile(kd.tf.sin(x), [1, 3])), [1, 100])
    # Floats of 100, 100, 300 and 300 elements, each rounded up to 16 bytes; the last two live together.
    assert arena_bytes(content) == 1200 + 1200


def test_a_skipped_tensor_lives_on():
    content = _convert(lambda x: kd.tf.sin(kd.tf.exp(kd.tf.sin(x))) + x, [1, 64])
    # The input lives to the end, beside the source and the result of each operator.
    assert arena_bytes(content) == 3 * 256


def test_an_output_made_early_stays_to_the_end():
    def two_outputs(x):
        early = kd.tf.sin(x)
        return early, kd.tf.tile(kd.tf.exp(kd.tf.cos(kd.tf.tile(x, [1, 4]))), [1, 2])

    # At the end: the early output of 64 floats, and source and result of the last operator.
    assert arena_bytes(_convert(two_outputs, [1, 64])) == 4 * (64 + 4 * 64 + 8 * 64)


def test_constants_are_not_activations():
    matrix = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    assert arena_bytes(_convert(lambda x: kd.tf.matmul(x, kd.tf.constant(matrix)), [1, 64])) == 2 * 256


def test_odd_sizes_are_aligned():
    assert arena_bytes(_convert(lambda x: kd.tf.sin(x), [1, 3])) == 16 + 16


def test_the_graphs_that_a_loop_calls_are_counted():
    def loop(x):
        return kd.tf.while_loop(lambda y: kd.tf.reduce_sum(y) < 10.0, lambda y: (y + kd.tf.exp(y),), (x,))[0]

    assert arena_bytes(_convert(loop, [1, 64])) > arena_bytes(_convert(lambda x: x + kd.tf.exp(x), [1, 64]))


def test_a_file_and_its_bytes_are_the_same(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(_convert(lambda x: kd.tf.sin(x), [1, 64]))
    assert arena_bytes(path) == arena_bytes(path.read_bytes()) == 512


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official files are not here")
def test_the_official_resnet8():
    # Its widest moment: the first addition has three 32x32x16 int8 tensors at once.
    assert arena_bytes(OFFICIAL / "pretrainedResnet_quant.tflite") == 3 * 32 * 32 * 16


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(_convert(lambda x: kd.tf.sin(x), [1, 64])[:200])
    with pytest.raises(ConversionError, match=r"broken\.tflite"):
        arena_bytes(path)
    with pytest.raises(ConversionError, match=r"gone\.tflite"):
        arena_bytes(tmp_path / "gone.tflite")
