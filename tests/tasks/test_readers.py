"""Models that read or hear all at once: embeddings, labels and transcripts are those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qeffbuild.errors import RunError
from qeffbuild.runtime.reader import check_asked, open_reader
from qeffbuild.runtime.reading import Asked

TEXTS = ("Hello there", "And it came to pass in those days", "In the beginning God created the heaven")


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last"])
def test_each_pooling_sees_no_padding(pooling: str) -> None:
    import torch

    from qeffbuild.export.encoder import pool

    hidden = torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])

    made = pool(hidden, mask, pooling)

    for row, length in enumerate((5, 3)):
        seen = hidden[row, :length]
        whole = {"mean": seen.mean(0), "max": seen.amax(0), "cls": seen[0], "last": seen[-1]}
        torch.testing.assert_close(made[row], whole[pooling])


FAMILIES = ("roberta", "xlm-roberta", "distilbert", "mpnet", "deberta-v2", "modernbert", "nomic_bert", "t5")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type", ["bert", "qwen3", *(pytest.param(name, marks=pytest.mark.long) for name in FAMILIES)]
)
def test_every_kind_of_encoder_embeds_as_in_transformers(model_type: str, small: Callable) -> None:
    import torch
    import transformers
    from transformers import AutoTokenizer

    built = small(model_type, "model.task=embedding", "specialization.batch_size=3", "model.normalize=true")
    cls = transformers.T5EncoderModel if model_type == "t5" else transformers.AutoModel
    model, tokenizer = cls.from_pretrained(built.model).eval(), AutoTokenizer.from_pretrained(built.model)

    made = open_reader(built.package).answer(Asked(prompts=TEXTS)).as_json()["embeddings"]

    for text, vector in zip(TEXTS, made, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=2e-5)


@pytest.mark.slow
def test_labels_have_the_scores_of_transformers_and_pairs_are_told_apart(small: Callable) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    built = small("bert", "model.task=sequence-classification")
    model = AutoModelForSequenceClassification.from_pretrained(built.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(built.model)

    texts = ("Hello there", "who came\tAnd it came to pass")
    outputs = open_reader(built.package).answer(Asked(prompts=texts)).as_json()["outputs"]

    for text, output in zip(texts, outputs, strict=True):
        first, _, second = text.partition("\t")
        given = tokenizer(first, second or None, return_tensors="pt")
        types = tokenizer._tokenizer.encode(first, second or None).type_ids
        with torch.inference_mode():
            logits = model(given["input_ids"], token_type_ids=torch.tensor([types])).logits
        scores = torch.softmax(logits[0], dim=-1)
        assert list(output["scores"]) == ["LABEL_0", "LABEL_1"]
        np.testing.assert_allclose(list(output["scores"].values()), scores.numpy(), atol=1e-5)
        assert output["label"] == f"LABEL_{int(scores.argmax())}"


@pytest.mark.slow
def test_sound_is_spelt_out_as_transformers_does(small: Callable, wav: Path) -> None:
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForCTC

    from qeffbuild.runtime.sound import read_wav

    built = small("wav2vec2")
    model, extractor = (
        AutoModelForCTC.from_pretrained(built.model).eval(),
        AutoFeatureExtractor.from_pretrained(built.model),
    )

    reader = open_reader(built.package)
    (frames,) = reader.frames([read_wav(wav, 16000)])
    (output,) = reader.answer(Asked(audio=(str(wav),))).as_json()["outputs"]

    given = extractor(read_wav(wav, 16000), sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        wanted = model(given["input_values"]).logits[0].argmax(-1)
    assert frames.tolist() == wanted.tolist()
    assert output["text"] == reader.tokenizer.decode(wanted)


@pytest.mark.slow
def test_frames_of_sound_are_heard_without_those_that_are_padding(small: Callable, wav: Path) -> None:
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForCTC

    from qeffbuild.runtime.sound import read_wav

    built, sound = small("parakeet_ctc", "gate=none"), read_wav(wav, 16000)
    model, extractor = (
        AutoModelForCTC.from_pretrained(built.model).eval(),
        AutoFeatureExtractor.from_pretrained(built.model),
    )

    (frames,) = open_reader(built.package).frames([sound])

    given = extractor(sound, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        wanted = model(given["input_features"], attention_mask=given["attention_mask"]).logits[0].argmax(-1)
    assert not given["attention_mask"].all()
    assert frames.tolist() == wanted[: len(frames)].tolist()


@pytest.mark.slow
def test_texts_that_cannot_be_padded_are_read_one_by_one(small: Callable) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    built = small("fnet", "model.task=embedding", "specialization.batch_size=3")
    model, tokenizer = AutoModel.from_pretrained(built.model).eval(), AutoTokenizer.from_pretrained(built.model)

    made = open_reader(built.package).answer(Asked(prompts=TEXTS)).as_json()["embeddings"]

    for text, vector in zip(TEXTS, made, strict=True):
        with torch.inference_mode():
            mean = model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, mean.numpy(), atol=2e-5)


@pytest.mark.slow
def test_a_text_beyond_the_longest_length_is_refused_with_the_lengths_that_would_do(small: Callable) -> None:
    built = small("bert", "specialization.seq_len=[4,8]")

    with pytest.raises(RunError) as caught:
        open_reader(built.package).answer(Asked(prompts=("one two three four five six seven eight nine ten",)))

    assert caught.value.kind == "run.prompt"
    assert "longest length of this package is 8" in caught.value.message


@pytest.mark.parametrize(
    ("task", "asked", "kind", "says"),
    [
        ("ctc", Asked(), "run.audio", "no sound"),
        ("speech-seq2seq", Asked(audio=("nowhere.wav",)), "run.audio", "nowhere.wav"),
        ("speech-seq2seq", Asked(prompts=("Hi",)), "run.prompt", "hears"),
        ("embedding", Asked(audio=("a.wav",)), "run.audio", "reads text"),
    ],
)
def test_what_a_model_cannot_take_is_refused(task: str, asked: Asked, kind: str, says: str) -> None:
    with pytest.raises(RunError) as caught:
        check_asked(task, asked)

    assert caught.value.kind == kind
    assert says in caught.value.message
