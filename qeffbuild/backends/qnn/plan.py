"""BuildSpec -> the steps from a neutral graph to a package, by the way of its target."""

from __future__ import annotations

from qeffbuild.backends.qnn.aic import plan as aic
from qeffbuild.backends.qnn.htp import plan as htp
from qeffbuild.plan.types import Step
from qeffbuild.spec.types import BuildSpec


def steps(spec: BuildSpec, graph: str) -> tuple[Step, ...]:
    """`graph` is the step that gives the neutral graph."""
    return htp.steps(spec, graph) if spec.backend.options.target == "htp" else aic.steps(spec, graph)
