"""Size by the equations of Hochreiter and Schmidhuber 1997 with forget gates."""


def test_lstm_text_has_the_size_of_its_equations(counts):
    embedding, lstm, classifier = 5000 * 64, 4 * (64 * 64 + 64 * 64 + 64), 64 * 4 + 4
    expected = embedding + lstm + classifier
    assert counts("lstm_text", (64,), 4, vocabulary_size=5000) == (expected, expected)
    assert expected == 353_284


def test_the_options_are_its_widths(counts):
    expected = 100 * 3 + 4 * (3 * 5 + 5 * 5 + 5) + 5 * 2 + 2
    assert counts("lstm_text:width=3,units=5", (9,), 2, vocabulary_size=100)[0] == expected
