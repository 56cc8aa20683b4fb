"""Biases by the true distances of tokens."""

from __future__ import annotations

from qeffbuild.export.positions import bias_by_distance

REPLACED = {"Inkling2RelativeLogits.forward": bias_by_distance}
