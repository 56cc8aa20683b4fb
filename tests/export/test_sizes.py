"""What a trace took for granted about the length of a text is found, and said with its line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qeffbuild.export.sizes import FixedAxis, contexts, longest_context


class ByWindows(nn.Module):
    """The means of windows of eight tokens, the last of which may not be full."""

    def forward(self, text):
        windows = nn.functional.pad(text, (0, -text.shape[1] % 8)).unflatten(1, (-1, 8))
        return windows.mean(-1)


class ShortOrLong(nn.Module):
    def forward(self, text):
        return text * 2 if text.shape[1] <= 40 else text * 3


class ManyOnly(nn.Module):
    def forward(self, text):
        return text[:, :20] if text.shape[1] >= 20 else text


class Counting(nn.Module):
    def forward(self, text):
        return sum(text[:, at] for at in range(text.shape[1]))


class Padding(nn.Module):
    """Asks whether it has to, and would do nothing otherwise."""

    def forward(self, text):
        more = -text.shape[1] % 64
        return nn.functional.pad(text, (0, more)) if more else text


class FromTheEnd(nn.Module):
    """As many of a table's last entries as there are tokens."""

    def __init__(self):
        super().__init__()
        self.table = torch.arange(100.0)

    def forward(self, text):
        return text + self.table[torch.sym_max(0, 100 - text.shape[1]) :]


def traced(module, most=None):
    free = {"text": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.AUTO}}
    program = torch.export.export(module, (torch.ones(2, 24),), dynamic_shapes=free, strict=False)
    return longest_context(program, [("batch_size", "ctx_len")], contexts(most))


@pytest.mark.parametrize("module", [ByWindows(), Padding()])
def test_a_trace_that_asks_for_nothing_that_matters_holds_for_every_context(module):
    assert traced(module) == (None, "")


def test_the_longest_context_is_found_that_a_trace_holds_for():
    longest, why = traced(ShortOrLong())

    assert longest == 40
    assert why.startswith("its trace holds only where ctx_len <= 40 (test_sizes.py:")


def test_a_table_may_be_used_as_a_whole():
    assert traced(FromTheEnd(), most=100) == (None, "")


def test_beyond_a_models_own_positions_nothing_is_asked():
    assert traced(ShortOrLong(), most=32) == (None, "")


@pytest.mark.parametrize(
    ("module", "said"), [(ManyOnly(), "its trace holds only where"), (Counting(), "which fixes it to 24")]
)
def test_a_trace_that_holds_for_no_short_text_is_refused(module, said):
    with pytest.raises(FixedAxis, match=said):
        traced(module)
