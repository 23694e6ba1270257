"""The size of TC-ResNet8 (Choi et al. 2019, arXiv:1904.03814, table 2: 66 K)."""

from itertools import pairwise


def test_conv1d_audio_has_tc_resnet8_s_size(counts):
    total = trainable = 0
    widths = (16, 24, 32, 48)
    convolutions = [(3, 40, 16)]
    for before, after in pairwise(widths):
        convolutions += [(1, before, after), (9, before, after), (9, after, after)]
    for kernel, before, after in convolutions:
        trainable += kernel * before * after + 2 * after
        total += kernel * before * after + 4 * after
    head = 48 * 12 + 12
    assert counts("conv1d_audio", (98, 40, 1), 12) == (total + head, trainable + head) == (65_836, 65_180)
    assert round(65_836 / 1000) == 66
