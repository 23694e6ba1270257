"""Sizes of Simonyan and Zisserman 2014 (table 2) and Li et al. 2017 (table 1)."""

CHANNELS = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
KERNELS = sum(9 * a * b for a, b in zip([3, *CHANNELS], CHANNELS, strict=False))


def test_the_imagenet_head_gives_138_million_parameters(counts):
    head = (7 * 7 * 512 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 1000 + 1000)
    expected = KERNELS + sum(CHANNELS) + head
    assert counts("vgg16:head=imagenet", (224, 224, 3), 1000) == (expected, expected)
    assert expected == 138_357_544


def test_the_cifar_head_gives_15_million_parameters(counts):
    head = (512 * 512 + 512) + (512 * 10 + 10)
    total, trainable = counts("vgg16", (32, 32, 3), 10)
    assert trainable == KERNELS + 2 * sum(CHANNELS) + head
    assert total == trainable + 2 * sum(CHANNELS) == 14_995_146


def test_width_scales_every_hidden_layer(counts):
    narrow = [channels // 4 for channels in CHANNELS]
    kernels = sum(9 * a * b for a, b in zip([3, *narrow], narrow, strict=False))
    head = (128 * 128 + 128) + (128 * 10 + 10)
    assert counts("vgg16:width=0.25,head=cifar", (32, 32, 3), 10)[1] == kernels + 2 * sum(narrow) + head
