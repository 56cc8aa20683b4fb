"""The folders of `paths` as plain strings: to load pathlib would take a quarter of the time that an answer may take."""

from __future__ import annotations

import os

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def conf_folders() -> list[str]:
    """Every folder of configuration choices, a user's own before the packaged one."""
    packaged = next(filter(os.path.isdir, (f"{PACKAGE}/conf", f"{os.path.dirname(PACKAGE)}/conf")), PACKAGE)
    config_home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    own = [os.path.join(os.getcwd(), "conf"), os.path.join(config_home, "qeffbuild", "conf")]
    return [*(folder for folder in own if _is_another(folder, packaged)), packaged]


def _is_another(folder: str, packaged: str) -> bool:
    return os.path.isdir(folder) and os.path.realpath(folder) != os.path.realpath(packaged)


def cache_root(words: list[str] | tuple[str, ...]) -> str:
    """Where the store is, as far as one can say before the words are composed."""
    said = [word.partition("=")[2] for word in words if word.startswith("cache.root=")]
    if said:
        return said[-1]
    if chosen := os.environ.get("QEFFBUILD_CACHE"):
        return chosen
    if home := os.environ.get("QEFF_HOME"):
        return os.path.join(home, "qeff_cache")
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "qeff_cache")
