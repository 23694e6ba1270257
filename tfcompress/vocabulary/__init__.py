"""Frozen types that every other room speaks. Nothing here needs TensorFlow."""
