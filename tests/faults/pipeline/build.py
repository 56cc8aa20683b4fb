"""A complete small build: three steps, a store, and the product copied out.

It runs in the current folder: `source` is its input, `.cache` its store, `product` what it makes. Options: `--help`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from qeffbuild.errors import QeffBuildError  # noqa: E402
from qeffbuild.executor import PlainLines, execute  # noqa: E402
from qeffbuild.plan.keys import deep_keys  # noqa: E402
from qeffbuild.plan.types import Leaf, Plan, Step  # noqa: E402
from qeffbuild.store import Store  # noqa: E402
from qeffbuild.store.hand_out import export_tree  # noqa: E402


class PipelineWorld:
    """Source files by their bytes, tools and environment as they are."""

    def __init__(self, store: Store, environ: Mapping[str, str] = os.environ) -> None:
        self._store = store
        self._environ = environ

    def leaf(self, leaf: Leaf) -> str:
        return self._store.digest_file(Path(leaf.path))

    def code(self, module: str) -> str:
        path = HERE.joinpath(*module.split("."))
        return self._store.digest_file(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))

    def tool(self, distribution: str) -> str:
        return self._environ.get(f"VERSION_{distribution}", "1.0")

    def env(self, name: str) -> str | None:
        return self._environ.get(name)


def plan_of(*, twist: str = "left", blocks: int = 8, source: str = "source") -> Plan:
    common = ("fault_actions",)
    cut = Step(
        name="cut",
        action="fault_actions.cut",
        params={"blocks": blocks},
        leaves=(Leaf(name="source", path=source),),
        code=common,
        tools=("saw",),
    )
    shape = Step(
        name="shape",
        action="fault_actions.shape",
        params={"twist": twist, "blocks": blocks},
        reads={"twist": "shape.twist"},
        inputs={"cut": "cut"},
        narrow={"cut": ("cut.bin",)},
        code=common,
        env=("SHAPE_MODE",),
    )
    wrap = Step(
        name="wrap", action="fault_actions.wrap", inputs={"shape": "shape", "cut": "cut"}, code=common, tools=("paper",)
    )
    return Plan((cut, shape, wrap), ("wrap",))


def build(words: argparse.Namespace) -> None:
    reporter = PlainLines()
    store = Store(Path(words.cache), verify=words.verify, say=reporter.message)
    try:
        world = PipelineWorld(store)
        plan = plan_of(twist=words.twist, blocks=words.blocks)
        keys = deep_keys(plan, world)
        outcomes = execute(
            plan, keys, store, world=world, jobs=words.jobs, reporter=reporter, memory_mb=words.memory_mb
        )
        for outcome in outcomes:
            if outcome.error:
                raise outcome.error
        entry = outcomes[-1].entry
        assert entry is not None
        export_tree(store, entry, Path(words.product), replace=True)
    finally:
        store.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", default=".cache")
    parser.add_argument("--product", default="product")
    parser.add_argument("--verify", default="auto")
    parser.add_argument("--twist", default="left")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--memory-mb", type=int)
    try:
        build(parser.parse_args())
    except QeffBuildError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:
        print(f"error[source.io]: {error}", file=sys.stderr)  # noqa: T201
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
