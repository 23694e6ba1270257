"""Sound as a picture of frames and frequencies: log-mel energies or MFCCs, computed outside the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.data.encoding import Encoding
from tfcompress.data.split import Split
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.schema import Schema

FEATURES_FILE = "audio_features.json"

_LOWEST_HZ = 20.0
"""Lower edge of the first mel band, as in Zhang et al. 2017 (arXiv:1711.07128). The last ends at half the rate."""
_FLOOR = 1e-3
"""Added to a band's energy before the logarithm, for samples in -1...1: silence is then not far from speech, and an
integer input keeps its steps for what can be heard."""
_LEAST_DEVIATION = 1e-3
"""Of a bin that hardly varies, in nepers: it is not blown up."""


class AudioSettings(Schema):
    """How sound becomes an input `[frames, bins, 1]`.

    Example:
        >>> AudioSettings(features="mfcc").shape(16_000)
        (49, 10, 1)
    """

    features: Literal["log_mel", "mfcc"] = "log_mel"
    """Logarithms of mel band energies, or their first cosine coefficients. Defaults to `log_mel`."""
    duration_ms: float = Field(default=1000.0, ge=20, le=3_600_000)
    """Of one recording: longer ones are cut, shorter ones padded with silence, both at the end. Defaults to 1000."""
    frame_ms: float = Field(default=40.0, ge=5, le=1000)
    """Length of a frame. Defaults to 40."""
    hop_ms: float = Field(default=20.0, ge=1, le=1000)
    """From the beginning of one frame to that of the next. Defaults to 20."""
    mel_bins: int = Field(default=40, ge=2, le=512)
    """Mel bands. Defaults to 40."""
    coefficients: int = Field(default=10, ge=1, le=512)
    """Cosine coefficients that `mfcc` keeps. Defaults to 10."""

    @model_validator(mode="after")
    def _fits_together(self) -> AudioSettings:
        if self.frame_ms > self.duration_ms:
            raise ValueError(
                "frame_ms must not be longer than duration_ms. "
                f"Received: frame_ms={self.frame_ms:g} and duration_ms={self.duration_ms:g}"
            )
        if self.features == "mfcc" and self.coefficients > self.mel_bins:
            raise ValueError(
                "coefficients must not be more than mel_bins. "
                f"Received: coefficients={self.coefficients} and mel_bins={self.mel_bins}"
            )
        return self

    def samples(self, milliseconds: float, rate: int) -> int:
        """Samples in a time, at `rate` samples a second."""
        return round(milliseconds * rate / 1000)

    def shape(self, rate: int) -> tuple[int, int, int]:
        """(frames, bins, 1) of one recording at `rate` samples a second: frames lie wholly inside."""
        inside = self.samples(self.duration_ms, rate) - self.samples(self.frame_ms, rate)
        bins = self.mel_bins if self.features == "log_mel" else self.coefficients
        return 1 + inside // self.samples(self.hop_ms, rate), bins, 1


def fitted(sound: Any, settings: AudioSettings, rate: int) -> Any:
    """One recording in -1...1, cut or padded to the settings' duration.

    Args:
        sound: tensor `[samples]`; integers are those of 16-bit sound.
        settings: the duration.
        rate: samples a second.

    Returns:
        float32 `[duration]`.
    """
    tf = kd.tf
    scale = 2.0**-15 if sound.dtype.is_integer else 1.0
    length = settings.samples(settings.duration_ms, rate)
    cut = tf.cast(sound[:length], tf.float32) * scale
    return tf.ensure_shape(tf.pad(cut, [[0, length - tf.shape(cut)[0]]]), [length])


def features(sounds: Any, settings: AudioSettings, rate: int) -> Any:
    """Log-mel energies or MFCCs, not yet standardised.

    ``log(|STFT|^2 · M + 0.001)`` with a periodic Hann window, an FFT of the next power of two, and the triangular HTK
    mel bands M of `tf.signal.linear_to_mel_weight_matrix`; MFCCs are the first coefficients
    ``sqrt(2/N) · sum_n x_n cos(pi k (n + 1/2) / N)`` of these N values, as in HTK.

    Args:
        sounds: float32 tensor `[batch, samples]` in -1...1.
        settings: frames and bins.
        rate: samples a second.

    Returns:
        float32 `[batch, frames, bins, 1]`.

    Raises:
        DataError: a mel band is narrower than the frequencies that a frame can tell apart.
    """
    signal = kd.tf.signal
    spectrum = signal.stft(
        sounds, settings.samples(settings.frame_ms, rate), settings.samples(settings.hop_ms, rate), pad_end=False
    )
    energies = kd.tf.abs(spectrum) ** 2 @ _mel_bands(settings, rate, spectrum.shape[-1])
    values = kd.tf.math.log(energies + _FLOOR)
    if settings.features == "mfcc":
        values = signal.mfccs_from_log_mel_spectrograms(values)[..., : settings.coefficients]
    return values[..., None]


def _mel_bands(settings: AudioSettings, rate: int, frequencies: int) -> np.ndarray:
    # As NumPy, because a data pipeline traces this once for all recordings.
    with kd.tf.init_scope():
        bands = kd.tf.signal.linear_to_mel_weight_matrix(
            settings.mel_bins, frequencies, rate, _LOWEST_HZ, rate / 2
        ).numpy()
    empty = int(np.sum(~bands.any(axis=0)))
    if empty:
        raise DataError(
            f"Every mel band must hold a frequency of the frame's spectrum, and {empty} of {settings.mel_bins} hold "
            f"none with data.audio.frame_ms={settings.frame_ms:g} at {rate:,} samples a second. "
            "Remedy: a smaller data.audio.mel_bins, or a longer frame_ms."
        )
    return bands


def standardise_audio(
    splits: Mapping[str, Split], settings: AudioSettings, rate: int
) -> tuple[dict[str, Split], Encoding]:
    """Features less the mean of their bin, over its standard deviation, both of the train split alone.

    Args:
        splits: inputs `[n, frames, bins, 1]` of `features`. `train` must not hold what is tested on; what is
            validated on may still be in it, so that the numbers do not depend on the seed of that cut.
        settings: that the features were computed with.
        rate: samples a second.

    Returns:
        The splits, float32, and how they came to be.
    """
    train = splits["train"].inputs.astype(np.float64)
    mean = train.mean(axis=(0, 1, 3)).astype(np.float32)
    deviation = np.maximum(train.std(axis=(0, 1, 3)), _LEAST_DEVIATION).astype(np.float32)
    standardised = {
        name: Split((split.inputs - mean[:, None]) / deviation[:, None], split.targets)
        for name, split in splits.items()
    }
    return standardised, _encoding(settings, rate, mean, deviation)


def _encoding(settings: AudioSettings, rate: int, mean: np.ndarray, deviation: np.ndarray) -> Encoding:
    frame, hop = (settings.samples(time, rate) for time in (settings.frame_ms, settings.hop_ms))
    length = settings.samples(settings.duration_ms, rate)
    fft = 1 << (frame - 1).bit_length()
    frames, bins, _ = settings.shape(rate)
    numbers = {
        "sample_rate": rate,
        "duration_samples": length,
        "frame_samples": frame,
        "hop_samples": hop,
        "fft_length": fft,
        "mel_bins": settings.mel_bins,
        "lowest_hz": _LOWEST_HZ,
        "highest_hz": rate / 2,
        "log_floor": _FLOOR,
        "mfcc_coefficients": settings.coefficients if settings.features == "mfcc" else None,
        "mean": mean.tolist(),
        "standard_deviation": deviation.tolist(),
    }
    cosines = (
        f"; of these values x_n the coefficients sqrt(2/N) * sum_n x_n cos(pi k (n + 1/2) / N), k = 0...{bins - 1}"
    )
    return Encoding(
        description=(
            f"Sound: {rate:,} samples a second in -1...1, one channel, {length:,} samples "
            f"({settings.duration_ms:g} ms); cut at the end, or filled up with 0",
            f"Frames: {frame} samples every {hop}, periodic Hann window, FFT of {fft}, squared magnitude",
            f"Bins: {settings.mel_bins} triangular HTK mel bands from {_LOWEST_HZ:g} to {rate / 2:g} Hz, then "
            f"log(energy + {_FLOOR:g})" + (cosines if settings.features == "mfcc" else ""),
            f"Standardised: (x - mean) / standard deviation of each of the {bins} bins, which are in "
            f"`{FEATURES_FILE}`; feed {frames} frames x {bins} bins x 1",
        ),
        files={FEATURES_FILE: json.dumps(numbers, indent=2) + "\n"},
        setting="data.audio",
    )
