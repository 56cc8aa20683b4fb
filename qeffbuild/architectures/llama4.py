"""Rotary embeddings by real numbers: a graph has no complex ones."""

from __future__ import annotations

import torch


def apply_rotary_emb(xq: torch.Tensor, xk: torch.Tensor, freqs_cis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = freqs_cis.real[:, :, None], freqs_cis.imag[:, :, None]

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(3).type_as(x)

    return turned(xq), turned(xk)


REPLACED = {"apply_rotary_emb": apply_rotary_emb}
