"""A program that writes into parts of a value is rewritten to one that writes nowhere and gives the same."""

from __future__ import annotations

import pytest
import torch

from qeffbuild.export.rewrites import rewrite
from qeffbuild.export.writes import works_in_place


def interleaved(x):
    """As angles of time, height and width take turns."""
    doubled = x * 2
    turned = doubled[0]
    for axis in (1, 2):
        turned[..., axis:4:2] = doubled[axis, ..., axis:4:2]
    return torch.cat((turned, doubled[0]), -1), doubled


def filled_row_by_row(x):
    room = torch.empty(3, 4, 6)
    for row in range(3):
        room[row, :2] = x[row, :2]
        room[row, 2:] = x[row, 0]
    return room


def read_before_and_after(x):
    made = x + 1
    head, before = made[:, 1], made.sum()
    made[:, 1:3] = 0.5
    made[0, -1].mul_(3)
    return before, head.sum(), made.transpose(0, 1)


def written_copy(x):
    made = x + 1
    copy = made.clone()
    copy[1] = 7
    return made * copy


def through_a_lone_transpose(x):
    made = (x + 1).transpose(1, 2)
    made[..., 1:2] = made[..., :1]
    return made


@pytest.mark.parametrize(
    "function", [interleaved, filled_row_by_row, read_before_and_after, written_copy, through_a_lone_transpose]
)
def test_what_is_written_into_is_replaced(function):
    class Module(torch.nn.Module):
        def forward(self, x):
            return function(x)

    x = torch.randn(3, 4, 6)
    program = torch.export.export(Module(), (x,), strict=False)

    rewrite(program.graph_module)

    assert not any(works_in_place(node) for node in program.graph_module.graph.nodes if node.op == "call_function")
    made, expected = program.module()(x), function(x.clone())
    for ours, theirs in zip(*((one if isinstance(one, tuple) else (one,)) for one in (made, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_what_others_may_read_is_left_to_decompositions():
    class Module(torch.nn.Module):
        def forward(self, x):
            x[0] = 1
            return x

    program = torch.export.export(Module(), (torch.randn(3, 4),), strict=False)

    with pytest.raises(NotImplementedError, match="memory that others may read"):
        rewrite(program.graph_module)
