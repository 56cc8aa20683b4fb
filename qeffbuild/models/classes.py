"""A configuration and a task -> transformers' model of it, on whatever device is the default."""

from __future__ import annotations

from typing import Any

from qeffbuild.models.tasks import CAUSAL, classes


def model_from(config: Any, task: str, *, trust_remote_code: bool = False, **arguments: Any) -> Any:
    """The class that the task's table names; a causal model may also be its folder's own code, if that is trusted."""
    import transformers

    if task == CAUSAL:
        auto = transformers.AutoModelForCausalLM
        return auto.from_config(config, trust_remote_code=trust_remote_code, **arguments)
    return getattr(transformers, classes(task)[config.model_type])._from_config(config, **arguments)
