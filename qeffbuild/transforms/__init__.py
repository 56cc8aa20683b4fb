"""Passes over neutral graphs, each a file here: `apply(graph under change, what the spec says of it)`.

The plan names them (`qeffbuild.plan.passes`) in the order in which the `transform` step runs them.
"""

from __future__ import annotations
