"""What a package says -> whether transformers says that of the folder which the package was built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qeffbuild.gate.figures import Figures

OTHERWISE = "generate counts otherwise than the model"  # transformers says two things: then the model's own counts
ROUNDING = ("quantization", "model.dtype", "backend.embedding_bits")  # words behind which a token may be another one


class Reference:
    """The model of a folder in float32, loaded once for all that is built of it."""

    def __init__(self, folder: Path, prompts: Sequence[str], new_tokens: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.rows: list[list[int]] = [tokenizer(prompt).input_ids for prompt in prompts]
        self.new_tokens = new_tokens
        self._generated: tuple[list[list[int]], str] | None = None
        self._alone: list[list[int]] | None = None

    def holds(self, ours: list[list[int]]) -> str:
        """Something to be told where all is well; raises where transformers says other tokens."""
        if self._generated is None:
            self._generated = self._asked()
        theirs, told = self._generated
        if ours == theirs:
            return told
        if self._alone is None:
            self._alone = [self._one_by_one(row) for row in self.rows]
        assert ours == self._alone, f"{ours}, generate says {theirs}, the model {self._alone}"
        return told or OTHERWISE

    def holds_about(self, ours: list[list[int]], package: Path, limits: Mapping[str, float]) -> str:
        """Where numbers are rounded: logits as near as gates ask, and no token that is far from the likeliest.

        The text is one that the gates have not seen, in chunks that are the package's.
        """
        from qeffbuild.gate.figures import Limits

        found = self._figures(ours, package)
        broken = Limits(**limits).broken_by(found)
        told = f"noise {found.noise:.1e}, KL {found.kl:.1e}, same {found.agreement:.2f}"
        assert broken is None, f"{broken}; {told}"
        furthest = max(self._behind(row, said) for row, said in zip(self.rows, ours, strict=True))
        # Of two tokens one may be as much too likely as the other is not likely enough.
        assert furthest <= 3 * found.error, f"a token is {furthest:.2g} spreads from the likeliest; {told}"
        return told

    def _figures(self, ours: list[list[int]], package: Path) -> Figures:
        import numpy as np

        from qeffbuild.gate.figures import compare
        from qeffbuild.runtime.engine import Engine
        from qeffbuild.runtime.evaluate import Text, Window, predictions

        whole = [token for row, said in zip(self.rows, ours, strict=True) for token in (*row, *said)]
        text = Text(np.array(whole), (Window(0, 1, len(whole)),))
        said = np.concatenate([logits.copy() for _, _, logits in predictions(Engine.open(package), text)])
        return compare([(self._logits(whole[:-1]), said)], are_logits=True)

    def _logits(self, tokens: Sequence[int]) -> Any:
        import torch

        from qeffbuild.export.decoder import without_cache

        with torch.no_grad():
            return self.model(input_ids=torch.tensor([tokens]), **without_cache(self.model)).logits[0].numpy()

    def _behind(self, row: Sequence[int], said: Sequence[int]) -> float:
        """How far the logit of a token is from the likeliest one's, at most, in spreads."""
        logits = self._logits([*row, *said[:-1]])
        asked = logits[len(row) - 1 :]
        return float(max(each.max() - each[token] for each, token in zip(asked, said, strict=True)) / logits.std())

    def _asked(self) -> tuple[list[list[int]], str]:
        try:
            return [self._generate(row) for row in self.rows], ""
        except Exception as problem:  # some types cannot
            return [], f"generate cannot: {type(problem).__name__}"

    def _generate(self, row: list[int]) -> list[int]:
        import torch

        ids = torch.tensor([row])
        asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": self.new_tokens, "do_sample": False}
        with torch.no_grad():
            made: list[int] = self.model.generate(ids, **asked)[0, len(row) :].tolist()
        return made

    def _one_by_one(self, row: list[int]) -> list[int]:
        """The likeliest token behind the whole text, again and again."""
        eos = self.model.generation_config.eos_token_id
        ends = eos if isinstance(eos, list) else [eos]
        said: list[int] = []
        while len(said) < self.new_tokens and not set(said[-1:]) & set(ends):
            said.append(int(self._logits([*row, *said])[-1].argmax()))
        return said
