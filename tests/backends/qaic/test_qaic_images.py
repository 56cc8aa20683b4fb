"""Models that see, in the device's form: their greedy tokens are those of transformers, in two programs and in one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from played_device import Device

from qeffbuild.actions import export as export_action
from qeffbuild.actions import fetch as fetch_action
from qeffbuild.cloud_ai_100 import lower as lower_action
from qeffbuild.cloud_ai_100.image_shapes import Images
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph
from qeffbuild.graph.weights import Folder, Weights
from qeffbuild.graph.write import write_weights
from qeffbuild.graphs import members
from qeffbuild.runtime.seeing import Eyes, Seen
from tests.vision import small_models
from tests.vision.small_models import STEPS, asked_of, greedy_by_transformers

CONTEXT = 128
# One plain family, one that turns by a grid and stacks features, one whose images see themselves as a whole.
QUICK = ("llava", "qwen3_vl", "gemma3")
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in small_models.FAMILIES]


def step(action: Any, out: Path, params: dict[str, Any], leaves: dict[str, Path], **inputs: Path) -> Path:
    out.mkdir(parents=True)
    action.run(Work(name=out.name, params=params, inputs=inputs, leaves=leaves, out=out))
    return out


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """exported("llava", kv_offload=True) -> the folders of the model and of its export, made once."""
    made: dict[tuple[str, bool], tuple[Path, Path]] = {}

    def once(family: str, *, kv_offload: bool = True) -> tuple[Path, Path]:
        key = (family, kv_offload)
        if key not in made:
            root = tmp_path_factory.mktemp(family)
            model = small_models.write(root / "model", family)
            leaves = {"model": model}
            asked = {"scale": "full", "allow_pickle": False, "trust_remote_code": False}
            fetched = step(fetch_action, root / "fetch", asked, leaves)
            asked = {"dtype": "float32", "task": "image-text", "trust_remote_code": False, "kv_offload": kv_offload}
            asked |= {"img_size": [28, 40], "max_num_images": 1}
            made[key] = model, step(export_action, root / "export", asked, leaves, model=fetched)
        return made[key]

    return once


class Seeing:
    """A lowered folder on the played device: rows of prompts with an image each."""

    def __init__(self, model: Path, export: Path, room: Path, rows: int, **form: Any) -> None:
        lowered = step(lower_action, room / "lowered", form, {}, graph=export)
        weights = Weights(Folder(export), Folder(model, is_checkpoint=True))
        self.facts = json.loads((export / "export.json").read_text())["image"]
        self.family = json.loads((model / "config.json").read_text())["model_type"]
        self.eyes = Eyes(
            SimpleNamespace(tokenizer=model, manifest={"image": self.facts}, model={"model_type": self.family})  # type: ignore[arg-type]
        )
        self.parts = {}
        for member in members(lowered):
            (room / member.name).mkdir()
            graph = load_graph(member.graph)
            write_weights(graph, weights, room / member.name / "graph.data")
            at_most = {"vision_batch_size": rows, "vision_size": self.facts["vision_size"]}
            at_most["img_size"] = Images.read(self.facts).height
            signature = member.signature
            self.parts[member.name] = Device(graph, signature, rows, room / member.name, CONTEXT, **at_most)

    def look(self, row: int, seen: Seen) -> None:
        """What a row's prompt shows enters the decoder's state."""
        decoder = self.parts["decoder"]
        if "vision" not in self.parts:
            decoder.states["pixel_values"] = seen.pixels[0]
            return
        vision = self.parts["vision"]
        for name, made in vision.feed(pixel_values=seen.pixels[0]).items():
            decoder.states[name][row] = made[0]

    def positions(self, seen: Seen, places: Sequence[int]) -> np.ndarray:
        """[S], or [4, S] where the model turns by a grid; -1 is padding."""
        places = np.array(places)
        if seen.positions is None:
            return places
        length = seen.positions.shape[1]
        after = seen.positions.max() + 1 + places - length
        turned = np.where(places < length, seen.positions[:, np.minimum(places, length - 1)], after)
        return np.concatenate([places[None], np.where(places < 0, -1, turned)])


def chunks(length: int, size: int) -> Iterator[list[int]]:
    for start in range(0, length, size):
        yield [place if place < length else -1 for place in range(start, start + size)]


def generate(device: Seeing, rows: Sequence[Seen], size: int, one_by_one: Sequence[int] | None) -> list[list[int]]:
    """Greedy tokens. All rows at once, or each into its slot of `one_by_one` before all of them decode."""
    decoder, answers = device.parts["decoder"], [list[int]() for _ in rows]
    groups = [[row] for row in range(len(rows))] if one_by_one is not None else [list(range(len(rows)))]
    for group in groups:
        for place, row in enumerate(group):
            device.look(place, rows[row])
        more = {} if one_by_one is None else {"batch_index": np.array([[one_by_one[row]] for row in group])}
        taken = np.zeros((len(group), 1), np.int64)
        for steps in zip(
            *(_padded(chunks(len(rows[row].token_ids), size), group, rows, size) for row in group), strict=True
        ):
            ids = [[rows[row].token_ids[max(p, 0)] for p in places] for row, places in zip(group, steps, strict=True)]
            positions = [device.positions(rows[row], places) for row, places in zip(group, steps, strict=True)]
            logits = decoder.run(ids, np.stack(positions, axis=-2), image_idx=taken, **more)
            taken = decoder.made["image_idx_output"]
            for place, (row, places) in enumerate(zip(group, steps, strict=True)):
                if len(rows[row].token_ids) - 1 in places:
                    answers[row].append(int(logits[place, -1].argmax()))
    more = {} if one_by_one is None else {"batch_index": np.array([[slot] for slot in one_by_one])}
    for step_ in range(STEPS - 1):
        at = [device.positions(seen, [len(seen.token_ids) + step_]) for seen in rows]
        ids = [[answer[-1]] for answer in answers]
        logits = decoder.run(ids, np.stack(at, axis=-2), image_idx=taken, **more)
        for answer, row in zip(answers, logits, strict=True):
            answer.append(int(row[-1].argmax()))
    return answers


def _padded(own: Iterator[list[int]], group: Sequence[int], rows: Sequence[Seen], size: int) -> Iterator[list[int]]:
    """As many chunks as the longest prompt of the group has."""
    count = max(-(-len(rows[row].token_ids) // size) for row in group)
    for _ in range(count):
        yield next(own, [-1] * size)


def check(device: Seeing, model: Path, room: Path, size: int, one_by_one: Sequence[int] | None = None) -> None:
    prompts, images = asked_of(model, device.family, room)
    seen = device.eyes.read(prompts, list(map(str, images)))

    # Tokens that see one another are fed together: then the first chunk holds them all.
    size = max([size, *(stop for row in seen for _, stop in row.whole)])
    said = generate(device, seen, size, one_by_one)

    assert said == greedy_by_transformers(model, device.family, prompts, images)


@pytest.mark.parametrize("family", CASES)
def test_a_family_that_sees_says_on_the_device_what_it_says_in_pytorch(
    family: str, exported: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    model, export = exported(family)
    device = Seeing(model, export, tmp_path, rows=2, rings_below=CONTEXT, longest_run=32)

    check(device, model, tmp_path, size=9)  # in most families, the first chunk ends within an image


def test_prompts_with_images_join_while_others_decode(
    exported: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    model, export = exported("llava")
    device = Seeing(model, export, tmp_path, rows=4, continuous_batching=True, rings_below=None)
    device.parts["decoder"].states["vision_embeds"] = device.parts["decoder"].states["vision_embeds"][:1]

    check(device, model, tmp_path, size=9, one_by_one=[3, 1])


@pytest.mark.slow
def test_one_program_sees_and_speaks(exported: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    model, export = exported("llava", kv_offload=False)
    device = Seeing(model, export, tmp_path, rows=1, rings_below=None)
    prompts, images = asked_of(model, "llava", tmp_path)
    seen = device.eyes.read(prompts, list(map(str, images)))

    said = generate(device, seen[:1], 9, None)

    assert said == greedy_by_transformers(model, "llava", prompts[:1], images[:1])
