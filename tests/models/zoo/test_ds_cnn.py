"""The size of MLPerf Tiny's keyword network (Banbury et al. 2021, arXiv:2106.07597)."""


def test_ds_cnn_has_mlperf_tiny_s_size(counts):
    first = 10 * 4 * 64 + 64 + 2 * 64
    block = (9 * 64 + 64 + 2 * 64) + (64 * 64 + 64 + 2 * 64)
    trainable = first + 4 * block + (64 * 12 + 12)
    assert counts("ds_cnn", (49, 10, 1), 12) == (trainable + 9 * 2 * 64, trainable) == (24_908, 23_756)
