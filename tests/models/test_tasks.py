from __future__ import annotations

import json
from pathlib import Path

import pytest

from qeffbuild.errors import ModelError
from qeffbuild.models.pooling import Pooling, read_pooling
from qeffbuild.models.tasks import TASKS, classes, task_of, task_of_type

CASES = {
    "LlamaForCausalLM": ("llama", "causal-lm"),
    "GPT2LMHeadModel": ("gpt2", "causal-lm"),
    "RWForCausalLM": ("falcon", "causal-lm"),  # an old name for what transformers has
    "BertModel": ("bert", "embedding"),
    "Qwen3Model": ("qwen3", "embedding"),
    "T5EncoderModel": ("t5", "embedding"),
    "XLMRobertaForSequenceClassification": ("xlm-roberta", "sequence-classification"),
    "Wav2Vec2ForCTC": ("wav2vec2", "ctc"),
    "WhisperForConditionalGeneration": ("whisper", "speech-seq2seq"),
    "BartForConditionalGeneration": ("bart", "text-seq2seq"),
    "MarianMTModel": ("marian", "text-seq2seq"),
    "LlavaForConditionalGeneration": ("llava", "image-text"),
}


@pytest.mark.parametrize("architecture", CASES)
def test_the_class_that_a_model_was_saved_with_tells_its_task(architecture: str, tmp_path: Path) -> None:
    model_type, task = CASES[architecture]

    assert task_of(tmp_path, {"model_type": model_type, "architectures": [architecture]}) == task


@pytest.mark.parametrize(
    ("model_type", "task"),
    [("llama", "causal-lm"), ("roberta", "embedding"), ("whisper", "speech-seq2seq"), ("t5", "text-seq2seq"),
     ("wav2vec2", "ctc"), ("llava", "image-text")],
)  # fmt: skip
def test_without_a_class_the_type_tells_it(model_type: str, task: str, tmp_path: Path) -> None:
    assert task_of(tmp_path, {"model_type": model_type}) == task == task_of_type(model_type)


def test_an_encoder_that_its_configuration_calls_causal_is_a_decoder(tmp_path: Path) -> None:
    assert task_of(tmp_path, {"model_type": "xlm", "causal": True}, asked="causal-lm") == "causal-lm"


def test_what_is_asked_counts_when_the_type_can_do_it(tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}

    with pytest.raises(ModelError) as alone:
        task_of(tmp_path, config)
    assert alone.value.hint is not None
    assert "model.task=embedding" in alone.value.hint
    assert task_of(tmp_path, config, asked="embedding") == "embedding"
    with pytest.raises(ModelError) as impossible:
        task_of(tmp_path, config, asked="ctc")
    assert impossible.value.kind == "model.task"


def test_a_folder_of_sentence_transformers_is_an_embedding_model(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Normalize")

    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}

    assert task_of(tmp_path, config) == "embedding"


def test_a_language_model_that_was_saved_by_itself_is_known_by_its_class(tmp_path: Path) -> None:
    config = {"model_type": "emu3_text_model", "architectures": ["Emu3ForCausalLM"]}

    assert task_of(tmp_path, config) == task_of(tmp_path, config, asked="causal-lm") == "causal-lm"
    with pytest.raises(ModelError) as without:
        task_of(tmp_path, {"model_type": "emu3_text_model"})
    assert without.value.kind == "model.unsupported"


def test_what_hears_goes_on_with_a_text_where_no_processor_lies_beside_it(tmp_path: Path) -> None:
    named = {"architectures": ["MossTranscribeDiarizeForConditionalGeneration"]}
    config = {"model_type": "moss_transcribe_diarize", **named}

    alone = task_of(tmp_path, config)
    (tmp_path / "processor_config.json").write_text("{}")

    assert (alone, task_of(tmp_path, config)) == ("causal-lm", "text-seq2seq")


def test_every_task_has_its_table_of_classes() -> None:
    assert all(len(classes(task)) > 10 for task in TASKS)


def write_modules(folder: Path, *kinds: str, pooling: str = "pooling_mode_lasttoken") -> None:
    modules = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, pooling: True}))


def test_the_modules_say_how_tokens_become_an_embedding(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Normalize")
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')

    assert read_pooling(tmp_path) == Pooling(mode="last", normalize=True, longest=256)


@pytest.mark.parametrize(
    ("kinds", "pooling"), [(("Transformer", "Pooling", "Dense"), "pooling_mode_cls_token"),
                           (("Transformer", "Pooling"), "pooling_mode_weightedmean_tokens")],
)  # fmt: skip
def test_a_module_that_is_not_built_is_refused_not_left_out(
    kinds: tuple[str, ...], pooling: str, tmp_path: Path
) -> None:
    write_modules(tmp_path, *kinds, pooling=pooling)

    with pytest.raises(ModelError) as caught:
        read_pooling(tmp_path)

    assert caught.value.kind == "model.unsupported"
    assert caught.value.hint is not None
    assert "model.pooling=mean" in caught.value.hint
