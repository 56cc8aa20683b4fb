"""Values -> documents, by the templates in `templates/`; nothing a template says can reach beyond its values."""

from qeffbuild.rendering.render import render

__all__ = ["render"]
