"""What the lowered graph says equals the plain truth, however its rows are cut, padded and mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_steps import build, generate
from neutral_decoder import make_decoder

from qeffbuild.backends.onnxruntime.session import open_session


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("said", [{}, {"softcap": 5.0}, {"window": 3}], ids=str)
def test_ragged_rows_in_chunks_give_the_logits_of_whole_prompts(
    tmp_path: Path, said: dict[str, Any], chunk: int
) -> None:
    decoder = make_decoder(tmp_path, **said)
    session = open_session(build(decoder, tmp_path), threads=1)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [11, 12], [21, 22, 23, 24, 25]]

    found = generate(session, prompts, chunk)

    for prompt, logits in zip(prompts, found, strict=True):
        np.testing.assert_allclose(logits, decoder.logits(prompt), rtol=1e-4, atol=1e-4)
