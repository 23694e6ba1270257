"""Distillation: what a student learns from teachers while a step trains it."""
