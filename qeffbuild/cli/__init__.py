"""Words -> calls of `api`. The front answers without Hydra, YAML or torch when nothing has to be done."""

from qeffbuild.cli.front import main

__all__ = ["main"]
