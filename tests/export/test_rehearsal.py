"""What a model chooses by the number of a layer is seen when it runs, and decides which layers are copies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qeffbuild.export.layers import NotAlike, plan
from qeffbuild.export.rehearsal import rehearse


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden, mask=None):
        return hidden + self.linear(hidden) * mask


class Tower(nn.Module):
    """Every third layer is given another mask; what layer -2 says, or a sum of several, is the result."""

    def __init__(self, wide=3, read=(-2,)):
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(9)])
        self.config = self
        self.wide, self.read = wide, read

    def get_text_config(self, decoder):
        return self

    def forward(self, hidden):
        narrow, whole = torch.zeros(1), torch.ones(1)
        said = []
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, mask=whole if number % self.wide == self.wide - 1 else narrow)
            said.append(hidden)
        return sum(said[number] for number in self.read)


def rehearsed(tower):
    return rehearse(tower.layers, lambda: [tower(torch.ones(1, 4, requires_grad=True) * 1)])


def test_layers_that_are_given_another_mask_are_another_kind():
    found = rehearsed(Tower())

    narrow, whole = found.given[0], found.given[2]
    assert narrow != whole
    assert found.given == (narrow, narrow, whole) * 3


def test_layers_behind_the_one_that_is_read_are_left_but_not_copied():
    tower = Tower()

    made = plan(tower, rehearsed=rehearsed(tower))

    assert (made.count, made.traced, made.unread) == (9, 3, 1)
    assert made.template[3:8] == (1, 1, 2, 1, 1)


def test_features_of_several_layers_let_none_be_copied():
    tower = Tower(read=(-1, 3))

    with pytest.raises(NotAlike) as raised:
        plan(tower, rehearsed=rehearsed(tower))

    assert str(raised.value) == "2 of its layers are read behind them: [3, 8]"
