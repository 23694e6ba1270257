"""Measurements of the shipped file itself: metric, latency, delegation, agreement with the Keras model."""

from tfcompress.evaluate.agreement import Agreement, agreement
from tfcompress.evaluate.delegation import Delegation, delegation
from tfcompress.evaluate.interpreter import Kernels, open_interpreter
from tfcompress.evaluate.latency import Latency, LatencyReport, measure_latency
from tfcompress.evaluate.layers import LayerError, departure, layer_errors
from tfcompress.evaluate.metric import Score, drop_points, loss_spoken_of, score, takes_logits
from tfcompress.evaluate.prediction import IoTypes, TensorType, io_types, output_step, predict

__all__ = [
    "Agreement",
    "Delegation",
    "IoTypes",
    "Kernels",
    "Latency",
    "LatencyReport",
    "LayerError",
    "Score",
    "TensorType",
    "agreement",
    "delegation",
    "departure",
    "drop_points",
    "io_types",
    "layer_errors",
    "loss_spoken_of",
    "measure_latency",
    "open_interpreter",
    "output_step",
    "predict",
    "score",
    "takes_logits",
]
