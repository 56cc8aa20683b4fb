"""A model folder -> Facts: all that planning and tracing want to know of a checkpoint, without torch or a weight."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import ModelError
from qeffbuild.models import config as configuration
from qeffbuild.models.encodings import as_codes, plain_tensors, read_encodings
from qeffbuild.models.families import refuse_code
from qeffbuild.models.files import CONFIG, read_json
from qeffbuild.models.formats.door import Encoded
from qeffbuild.models.pooling import Pooling, read_pooling
from qeffbuild.models.tasks import EMBEDDING, positions_after_padding, task_of
from qeffbuild.models.weights import Tensor, read_tensors

# Other files of a model that can ask for code of their own.
_MAY_HAVE_CODE = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_TOKEN_TABLES = ("wte", "embed_tokens", "word_embeddings", "embed_in")
_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding")


# Families that go through the same layers several times.
_SHARE_LAYERS = frozenset({"hrm_text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`tensors` is the checkpoint's own table, under the names that it has there; `encodings` says which of them
    together are one weight.
    """

    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None
    task: str
    tensors: Mapping[str, Tensor]
    pooling: Pooling | None = None  # where files beside the model say how its outputs become embeddings
    encodings: Mapping[str, Encoded] = field(default_factory=dict)

    @property
    def plain_tensors(self) -> Mapping[str, Tensor]:
        """The table as an unquantized checkpoint has it: encoded weights by their own names and shapes."""
        return plain_tensors(self.tensors, dict(self.encodings)) if self.encodings else self.tensors

    @property
    def names(self) -> dict[tuple[str, int], str]:
        """(file, offset) of a stored tensor -> its name."""
        return {(tensor.file, tensor.offset): name for name, tensor in self.tensors.items()}

    @property
    def model_type(self) -> str:
        return self.config["model_type"]

    @property
    def num_hidden_layers(self) -> int | None:
        return configuration.number(self.config, "num_hidden_layers")

    @property
    def num_attention_heads(self) -> int | None:
        return configuration.number(self.config, "num_attention_heads")

    @property
    def num_key_value_heads(self) -> int | None:
        return configuration.num_key_value_heads(self.config)

    @property
    def vocab_size(self) -> int | None:
        return configuration.number(self.config, "vocab_size")

    @property
    def max_position_embeddings(self) -> int | None:
        """How long a text can be: where a table's first rows stand for padding, that many tokens less than it says."""
        highest = configuration.number(self.config, "max_position_embeddings")
        rows, padding = self._rows_of_positions(), self.config.get("pad_token_id", 1)
        if highest is None or not rows or not isinstance(padding, int) or not positions_after_padding(self.model_type):
            return highest
        return min(highest, min(rows) - padding - 1)

    @property
    def has_position_table(self) -> bool:
        """Positions are rows of a trained table, so that none exist beyond its end."""
        return bool(self._rows_of_positions())

    def _rows_of_positions(self) -> list[int]:
        return [tensor.shape[0] for name, tensor in self.tensors.items() if _is_position_table(name, tensor)]

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "config": dict(self.config),
            "generation_config": dict(self.generation_config) if self.generation_config is not None else None,
            "task": self.task,
            "pooling": self.pooling.as_json() if self.pooling is not None else None,
            "tensors": {name: tensor.as_json() for name, tensor in sorted(self.tensors.items())},
            "encodings": {name: encoded.as_json() for name, encoded in sorted(self.encodings.items())},
        }

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=1, sort_keys=True) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Facts:
        """What `save` wrote."""
        said = json.loads(path.read_text("utf-8"))
        tensors = {name: Tensor(**{**row, "shape": tuple(row["shape"])}) for name, row in said["tensors"].items()}
        pooling = said.get("pooling")
        return cls(
            config=said["config"],
            generation_config=said["generation_config"],
            task=said["task"],
            tensors=tensors,
            pooling=Pooling(**pooling) if pooling is not None else None,
            encodings={name: Encoded.from_json(row) for name, row in said.get("encodings", {}).items()},
        )


def read_facts(
    folder: Path,
    *,
    task: str = "auto",
    pooling: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Facts:
    """The facts of a model folder; a ModelError or PathError for what cannot be built or must not be read.

    `task` and `pooling` are what is asked of the model; "auto" leaves it to the files.
    """
    if not folder.is_dir():
        raise ModelError("model.absent", f"no such model folder: {folder}", hint="model.path names a local folder")
    config = configuration.read_config(folder)
    if not trust_remote_code:
        found = [folder / name for name in _MAY_HAVE_CODE if (folder / name).is_file()]
        others = {path.name: read_json(path, "model.config") for path in found}
        refuse_code(folder, config, others)
    does = task_of(folder, config, asked=task, trust_remote_code=trust_remote_code)
    tensors = read_tensors(folder, allow_pickle=allow_pickle)
    encodings = read_encodings(folder, config, tensors)
    facts = Facts(
        config=config,
        generation_config=configuration.read_generation_config(folder),
        task=does,
        tensors=as_codes(tensors, encodings),
        pooling=read_pooling(folder) if does == EMBEDDING and pooling == "auto" else None,
        encodings=encodings,
    )
    if facts.tensors:
        _refuse_too_few(folder, facts)
    return facts


def _is_position_table(name: str, tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and any(part in _POSITION_TABLES for part in name.split("."))


def _refuse_too_few(folder: Path, facts: Facts) -> None:
    """What names and shapes alone betray at once; the `check` step compares everything, with transformers' help."""
    numbers = [int(found[1]) for name in facts.tensors if (found := re.search(r"(?:^|\.)(\d+)\.", name))]
    # (ALBERT's layers share weights by groups.)
    wanted = facts.config.get("num_hidden_groups") or facts.num_hidden_layers or 0
    layers = max(numbers, default=-1) + 1
    if layers < wanted and facts.model_type not in _SHARE_LAYERS:
        _refuse_weights(folder, f"{CONFIG} says {wanted} layers, the checkpoint has {layers}")
    for name, tensor in facts.tensors.items():
        is_token_table = name.removesuffix(".weight").rpartition(".")[2] in _TOKEN_TABLES
        if is_token_table and tensor.shape[0] < (facts.vocab_size or 0):
            _refuse_weights(folder, f"{CONFIG} says vocab_size {facts.vocab_size}, {name} has {tensor.shape[0]} rows")


def _refuse_weights(folder: Path, found: str) -> NoReturn:
    raise ModelError(
        "model.weights", found, where=str(folder), hint="the weights and config.json are of different models"
    )
