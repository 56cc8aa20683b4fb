"""Where our own files live, in a checkout and in an installed wheel alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent


def resource_dir(name: str) -> Path:
    """`conf` or `templates`: inside the installed package, else beside it in a checkout."""
    installed = HERE / name
    return installed if installed.is_dir() else HERE.parent / name


def user_conf_dirs(cwd: Path, environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Folders of a user's own configuration, the nearest first: the project's, then the user's. Existing ones only."""
    config_home = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = (cwd / "conf", config_home / "qeffbuild" / "conf")
    packaged = resource_dir("conf").resolve()
    return tuple(folder for folder in candidates if folder.is_dir() and folder.resolve() != packaged)


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The store's folder when the spec names none."""
    if chosen := environ.get("QEFFBUILD_CACHE"):
        return Path(chosen)
    if home := environ.get("QEFF_HOME"):
        return Path(home) / "qeff_cache"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qeff_cache"
