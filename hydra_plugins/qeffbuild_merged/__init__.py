"""Hydra's basic sweep, with all its variants planned as one build: `hydra/sweeper=merged hydra/launcher=merged`.

Hydra imports every plug-in whenever it starts, for every program of the environment: so this file does nothing but
name its two classes, and they hand over to the task at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction

LIMIT = 4096  # variants; beyond it a sweep is more likely a slip than a wish


class MergedSweeper(BasicSweeper):
    """Every combination, as one batch. Nothing is composed or written here: the launcher sees all variants anyhow."""

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None, limit: int) -> None:
        super().__init__(max_batch_size, params)
        self.limit = limit

    def sweep(self, arguments: list[str]) -> Any:
        from qeffbuild.cli.sweep import combinations

        assert self.hydra_context is not None, "Hydra calls setup first"
        assert self.launcher is not None
        jobs = combinations([*self._parse_config(), *arguments], self.hydra_context.config_loader, self.limit)
        return [self.launcher.launch(jobs, initial_job_idx=0)]


class MergedLauncher(Launcher):
    """All jobs of a batch at once: `task.together` runs what they share one time and gives each its number."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: Any) -> None:
        self.task: Any = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        numbers = self.task.together(job_overrides)
        returns = []
        for overrides, number in zip(job_overrides, numbers, strict=True):
            job = JobReturn(overrides=list(overrides), cfg=self.config, working_dir=".", task_name="qeffbuild")
            job.status = JobStatus.COMPLETED
            job.return_value = number
            returns.append(job)
        return returns


_HERE = "hydra_plugins.qeffbuild_merged"
_STORE = ConfigStore.instance()
_STORE.store(group="hydra/launcher", name="merged", node={"_target_": f"{_HERE}.MergedLauncher"}, provider="qeffbuild")
_STORE.store(
    group="hydra/sweeper",
    name="merged",
    node={"_target_": f"{_HERE}.MergedSweeper", "max_batch_size": None, "params": None, "limit": LIMIT},
    provider="qeffbuild",
)
