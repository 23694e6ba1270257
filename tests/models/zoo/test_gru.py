"""The size of the small GRU of Zhang et al. 2017 (arXiv:1711.07128)."""


def test_gru_audio_has_the_size_of_its_equations(counts):
    gru = 3 * (10 * 154 + 154 * 154 + 2 * 154)
    expected = gru + 154 * 12 + 12
    assert counts("gru_audio", (2, 10, 1), 12) == (expected, expected)
    assert expected == 78_552
