"""What Hydra itself answers: --cfg, --info, --hydra-help, and the machinery of a sweep. It composes by our reading."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from os import getpid
from pathlib import Path
from typing import Any

from hydra import version as hydra_version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from qeffbuild import paths
from qeffbuild.cli.words import Command
from qeffbuild.errors import SpecError
from qeffbuild.spec.compose import compose

ROOT = "build"
DEFAULTS = ("hydra/sweeper=merged", "hydra/launcher=merged")


class Loader(ConfigLoaderImpl):
    """Hydra's loader, except that a job's configuration is composed as all of ours are: checked, typed, with places."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        own = [word for word in sweep_overrides if not is_for_hydra(word)]
        config = copy.deepcopy(master_config)
        with read_write(config), open_dict(config):
            config.merge_with(compose(own, conf_dirs=paths.user_conf_dirs(Path.cwd())).values)
            config.hydra.overrides.task = own
        return config


def answer(command: Command) -> int:
    """Let Hydra print what it was asked for."""
    words = [word for word in command.overrides if not is_for_hydra(word)]
    if command.has("--cfg") and command.value("--cfg") == "job":
        print(OmegaConf.to_yaml(_part(command, words)), end="")
        return 0
    hydra = start()
    try:
        args = get_args_parser().parse_args([*command.hydra, *_for_hydra(command.overrides)])
        if command.has("--hydra-help"):
            hydra.hydra_help(config_name=ROOT, args_parser=get_args_parser(), args=args)
        elif command.has("--info"):
            hydra.show_info(args.info, config_name=ROOT, overrides=args.overrides)
        else:
            hydra.show_cfg(ROOT, args.overrides, args.cfg, args.package, args.resolve)
    except (HydraException, ValueError) as error:
        raise SpecError("override.hydra", str(error).partition("\n")[0], hint="qeffbuild --hydra-help") from error
    finally:
        GlobalHydra.instance().clear()
    return 0


def _part(command: Command, words: Sequence[str]) -> DictConfig:
    config = OmegaConf.create(compose(words, conf_dirs=paths.user_conf_dirs(Path.cwd())).values)
    package = command.value("--package")
    if package is None:
        return config
    found = OmegaConf.select(config, package)
    if found is None:
        raise SpecError("override.unknown", f"--package {package}: no such key", hint=f"such as: {', '.join(config)}")
    return found if isinstance(found, DictConfig) else OmegaConf.create({package: found})


def multirun(overrides: Sequence[str], task: Callable[[DictConfig], Any]) -> Any:
    """What Hydra's own --multirun does, with the task's words given to the sweeper alone."""
    hydra = start()
    try:
        chosen = [word for word in DEFAULTS if not any(said.startswith(word.partition("=")[0]) for said in overrides)]
        folder = f"outputs/sweep-{time.strftime('%Y%m%d-%H%M%S')}-{getpid()}"
        fixed = [
            *("hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.output_subdir=null"),
            *(f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=.", f"hydra.run.dir={folder}", "hydra.mode=MULTIRUN"),
        ]
        words = [*chosen, *_for_hydra(overrides), *fixed]
        config = hydra.compose_config(None, words, RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        sweeper = Plugins.instance().instantiate_sweeper(config=config, hydra_context=context, task_function=task)
        return sweeper.sweep(arguments=[word for word in overrides if not is_for_hydra(word)])
    except HydraException as error:
        what = str(error).partition("\n")[0]
        raise SpecError("override.hydra", what, hint="qeffbuild --info plugins lists sweepers and launchers") from error
    finally:
        GlobalHydra.instance().clear()


def start() -> Hydra:
    """Hydra over the user's configuration folders and ours, with our sweeper and launcher among its plug-ins."""
    # In a checkout they lie beside the package; an installed one has them on the path already.
    if (paths.HERE.parent / "hydra_plugins").is_dir() and str(paths.HERE.parent) not in sys.path:
        sys.path.append(str(paths.HERE.parent))
    hydra_version.setbase("1.3")
    search_path = create_config_search_path(str(paths.resource_dir("conf")))
    for folder in reversed(paths.user_conf_dirs(Path.cwd())):
        search_path.prepend(provider="user", path=f"file://{folder.absolute()}")
    hydra = Hydra(task_name="qeffbuild", config_loader=Loader(config_search_path=search_path))
    GlobalHydra.instance().initialize(hydra)
    return hydra


def is_for_hydra(word: str) -> bool:
    return word.lstrip("+~").startswith(("hydra.", "hydra/"))


def _for_hydra(words: Sequence[str]) -> list[str]:
    return [word for word in words if is_for_hydra(word)]
