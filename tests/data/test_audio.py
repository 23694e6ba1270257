import json
from itertools import pairwise

import numpy as np
import pytest
from fixtures.text_and_audio import RATE, TinyTones, tone
from scipy.fft import dct

from tfcompress import keras_door as kd
from tfcompress.data import load_data
from tfcompress.data.audio import AudioSettings, features, fitted
from tfcompress.data.settings import DataSettings
from tfcompress.vocabulary.errors import DataError

SHORT = {"duration_ms": 250, "frame_ms": 32, "hop_ms": 16, "mel_bins": 12, "coefficients": 5}


def hertz_to_mel(hertz):
    return 1127 * np.log1p(np.asarray(hertz, float) / 700)


def log_mel(sound, settings, rate):
    """What the description on the card says, in NumPy: `[frames, bins]`."""
    length, frame, hop = (
        round(time * rate / 1000) for time in (settings.duration_ms, settings.frame_ms, settings.hop_ms)
    )
    fft = 2 ** int(np.ceil(np.log2(frame)))
    sound = np.pad(sound[:length] / 32768, (0, max(0, length - len(sound))))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    frames = np.stack([sound[start : start + frame] * window for start in range(0, length - frame + 1, hop)])
    power = np.abs(np.fft.rfft(frames, fft)) ** 2
    mels = hertz_to_mel(np.arange(1, fft // 2 + 1) * rate / fft)
    edges = np.linspace(hertz_to_mel(20), hertz_to_mel(rate / 2), settings.mel_bins + 2)
    bands = [
        np.maximum(0, np.minimum((mels - low) / (middle - low), (high - mels) / (high - middle)))
        for (low, middle), (_, high) in zip(pairwise(edges[:-1]), pairwise(edges[1:]), strict=True)
    ]
    return np.log(power[:, 1:] @ np.transpose(bands) + 1e-3)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyTones(data_dir=folder).download_and_prepare()
    return folder


@pytest.mark.parametrize("rate", [4000, 8000])
@pytest.mark.parametrize("length", [300, 5000])
def test_features_equal_an_independent_computation(rate, length):
    sound = (np.random.default_rng(0).normal(size=length) * 3000).astype(np.int64)
    for kind in ("log_mel", "mfcc"):
        settings = AudioSettings(features=kind, **SHORT)
        found = features(fitted(kd.tf.constant(sound), settings, rate)[None], settings, rate).numpy()
        expected = log_mel(sound, settings, rate)
        if kind == "mfcc":
            expected = dct(expected)[:, :5] / np.sqrt(2 * 12)
        assert found.shape == (1, *settings.shape(rate)) == (1, *expected.shape, 1)
        np.testing.assert_allclose(found[0, ..., 0], expected, atol=2e-3)


def test_an_audio_set_is_found_by_its_features_and_standardised(data_dir):
    data = load_data("tiny_tones", data_dir=data_dir, settings=DataSettings(audio=SHORT))
    settings = AudioSettings(**SHORT)
    assert data.input_shape == settings.shape(RATE) == (14, 12, 1)
    assert [part.count for part in data.splits.values()] == [72, 8, 20]
    assert data.class_names == ("low", "high")
    assert data.vocabulary_size is None
    rng = np.random.default_rng(0)
    raw = {label: [] for label in (0, 1)}
    for index in range(100):
        raw[index % 2].append(log_mel(tone(index % 2, rng), settings, RATE))
    stored = json.loads(data.encoding.files["audio_features.json"])
    mean, deviation = np.array(stored["mean"]), np.array(stored["standard_deviation"])
    learned = np.concatenate([data.train.inputs, data.validation.inputs])
    np.testing.assert_allclose(learned.mean((0, 1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(learned.std((0, 1, 3)), 1, atol=1e-4)
    for part in data.splits.values():
        for found, label in zip(part.inputs, part.targets, strict=True):
            expected = (np.stack(raw[label]) - mean) / deviation
            assert np.abs(expected - found[..., 0]).max(axis=(1, 2)).min() < 5e-3
    assert abs(data.test.inputs.mean()) > 1e-4, "the test split had a part in the mean"


def test_the_numbers_do_not_depend_on_the_seed(data_dir):
    first, second = (
        load_data("tiny_tones", data_dir=data_dir, settings=DataSettings(audio=SHORT), seed=seed) for seed in (0, 1)
    )
    assert first.encoding == second.encoding
    np.testing.assert_array_equal(first.test.inputs, second.test.inputs)


def test_the_description_and_file_say_all_that_a_person_deploying_needs(data_dir):
    data = load_data("tiny_tones", data_dir=data_dir, settings=DataSettings(audio={**SHORT, "features": "mfcc"}))
    text = "\n".join(data.encoding.description)
    for said in ("4,000 samples a second", "1,000 samples (250 ms)", "128 samples every 64", "FFT of 128"):
        assert said in text
    for said in ("12 triangular HTK mel bands from 20 to 2000 Hz", "log(energy + 0.001)", "k = 0...4"):
        assert said in text
    assert "audio_features.json" in text
    stored = json.loads(data.encoding.files["audio_features.json"])
    assert (stored["sample_rate"], stored["fft_length"], len(stored["mean"])) == (4000, 128, 5)


def test_bands_without_a_frequency_are_refused(data_dir):
    with pytest.raises(DataError, match=r"hold none with data\.audio\.frame_ms=10"):
        load_data("tiny_tones", data_dir=data_dir, settings=DataSettings(audio={"frame_ms": 10, "mel_bins": 40}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frame_ms": 100, "duration_ms": 50}, "longer than duration_ms"),
        ({"features": "mfcc", "coefficients": 41}, "more than mel_bins"),
        ({"features": "stft"}, "log_mel"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AudioSettings(**wrong)
