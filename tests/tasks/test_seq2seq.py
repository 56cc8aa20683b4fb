"""Encoder-decoders: the tokens of a package are those of transformers' own greedy generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qeffbuild.runtime.reader import open_reader
from qeffbuild.runtime.reading import Asked
from qeffbuild.spec.types import DecodingSpec

TEXTS = ("Hello there", "And it came to pass in those days, that there went out a decree", "In the beginning")
THAT_HEAR = ("speech_to_text", "speecht5", "seamless_m4t", "canary", "cohere_asr", "speech-encoder-decoder")
OTHERS = ("encoder-decoder", "marian", "m2m_100", "switch_transformers", "nllb-moe", "t5gemma2", "bigbird_pegasus")
DECODING = DecodingSpec(max_new_tokens=12, ignore_eos=True)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["t5", "bart", *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def test_texts_are_those_of_transformers_in_ragged_batches(model_type: str, small: Callable) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    built = small(model_type, "specialization.batch_size=2", "specialization.ctx_len=32")
    model = AutoModelForSeq2SeqLM.from_pretrained(built.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(built.model)

    said = open_reader(built.package).answer(Asked(prompts=TEXTS, decoding=DECODING)).as_json()

    assert [output["prompt"] for output in said["outputs"]] == list(TEXTS)
    for text, output in zip(TEXTS, said["outputs"], strict=True):
        with torch.inference_mode():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            wanted = model.generate(ids, max_new_tokens=12, min_new_tokens=12, do_sample=False, num_beams=1)[0, 1:]
        assert output["token_ids"] == wanted.tolist()
    if model_type == "t5":  # a random model of the others says one word over and over
        assert len(set(said["outputs"][0]["token_ids"])) > 2


@pytest.mark.long
def test_texts_of_one_block_and_of_several_are_read_alike(small: Callable) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    built = small("longt5", "specialization.batch_size=2", "specialization.ctx_len=32", "specialization.seq_len=[400]")
    model = AutoModelForSeq2SeqLM.from_pretrained(built.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(built.model)
    texts = (TEXTS[0], TEXTS[1] * 9)

    said = open_reader(built.package).answer(Asked(prompts=texts, decoding=DECODING)).as_json()

    for text, output in zip(texts, said["outputs"], strict=True):
        with torch.inference_mode():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            wanted = model.generate(ids, max_new_tokens=12, min_new_tokens=12, do_sample=False, num_beams=1)[0, 1:]
        assert output["token_ids"] == wanted.tolist()
    assert len(ids[0]) > 128


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type", ["whisper", "moonshine", *(pytest.param(name, marks=pytest.mark.long) for name in THAT_HEAR)]
)
def test_transcripts_are_those_of_transformers(model_type: str, small: Callable, wav: Path, shorter: Path) -> None:
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq

    from qeffbuild.runtime.sound import read_wav

    built = small(model_type, "specialization.batch_size=2", "specialization.ctx_len=32", task="speech-seq2seq")
    model = AutoModelForSpeechSeq2Seq.from_pretrained(built.model, attn_implementation="eager").eval()
    extractor = AutoFeatureExtractor.from_pretrained(built.model)

    sounds = (str(wav), str(shorter))
    outputs = open_reader(built.package).answer(Asked(audio=sounds, decoding=DECODING)).as_json()["outputs"]

    for sound, output in zip(sounds, outputs, strict=True):
        given = dict(extractor(read_wav(Path(sound), 16000), sampling_rate=16000, return_tensors="pt"))
        tokens = torch.tensor([[model.generation_config.decoder_start_token_id]])
        with torch.inference_mode():
            for _ in range(12):
                logits = model(**given, decoder_input_ids=tokens, use_cache=False).logits[0, -1]
                tokens = torch.cat([tokens, logits.argmax()[None, None]], dim=1)
        assert output["token_ids"] == tokens[0, 1:].tolist()
    assert [output["seconds"] for output in outputs] == [2.0, 1.25]
