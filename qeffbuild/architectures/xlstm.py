"""The matrix memory token by token, as a loop that a graph can hold: the family's kernels count chunks of a text."""

from __future__ import annotations

from typing import Any

import torch

from qeffbuild.export.loops import recurrence


def by_tokens(
    self: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    igate: torch.Tensor,
    fgate: torch.Tensor,
    **initial: Any,
) -> tuple[torch.Tensor, None]:
    """query, key [B,H,S,D], value [B,H,S,V], igate and fgate [B,H,S], of a text from its beginning -> [B,H,S,V].

    The state is [B,H,D,V+2]: the memory, beside it its norm and, the same in all rows, its scale.
    """
    if any(one is not None for one in initial.values()):
        raise NotImplementedError("a memory of what went before")
    width = value.shape[-1]

    def step(one: list[torch.Tensor], state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value, igate, fgate = one
        memory, norm, scale = state[..., :width], state[..., width], state[:, :, :1, width + 1]
        out, (memory, norm, scale) = self.step_kernel_fn(
            query=query,
            key=key,
            value=value,
            igate=igate[..., None],
            fgate=fgate[..., None],
            cstate=memory,
            nstate=norm,
            mstate=scale,
            eps=self.config.eps,
        )
        beside = torch.stack((norm, scale.expand_as(norm)), dim=-1)
        return out.flatten(1), torch.cat((memory, beside), dim=-1)

    wholes = [x.transpose(1, 2) for x in (query, key, value, igate, fgate)]
    first = 0 * (key[:, :, 0, :, None] * torch.nn.functional.pad(value[:, :, 0, None], (0, 2))).float()
    return recurrence(step, wholes, first).unflatten(-1, (-1, width)).transpose(1, 2), None


REPLACED = {"xLSTMBackend.forward": by_tokens}
