"""The ways to trace a model, in the order in which they are tried. Each must pass the self-check before it is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`attention` is the name under which the model looks up its attention and its masks.

    `explicit_mask` hands in a two-dimensional attention mask, for models that derive positions or biases from it.
    `past_len` is a constant for models that use the past length only to slice something longer than needed.
    `offset_by_padding` is for position tables that begin after the padding index.
    `recompute` keeps the text itself instead of keys and values, and computes all of it again at each step: slow, and
    right for every causal model, whatever becomes of its cache.
    """

    name: str
    attention: str
    explicit_mask: bool = False
    past_len: int | None = None
    offset_by_padding: bool = False
    recompute: bool = False


# "qeffbuild" is entered in transformers' tables by `interfaces`; "eager" is the model's own code with our masks.
RECIPES = (
    Recipe(name="attention interface", attention="qeffbuild"),
    Recipe(name="own attention", attention="eager"),
    Recipe(name="attention interface, constant past", attention="qeffbuild", past_len=1),
    Recipe(name="own attention, constant past", attention="eager", past_len=1),
    Recipe(name="attention interface, explicit mask", attention="qeffbuild", explicit_mask=True),
    Recipe(name="own attention, explicit mask", attention="eager", explicit_mask=True),
    Recipe(name="attention interface, positions after padding", attention="qeffbuild", offset_by_padding=True),
    Recipe(name="own attention, positions after padding", attention="eager", offset_by_padding=True),
    Recipe(name="tokens kept, all computed again", attention="eager", recompute=True),
)
