"""Model types that transformers lacks and that we bring, each a file here: its CONFIG and its causal MODEL."""

OWN = {"llama_swiftkv": "LlamaSwiftKVForCausalLM"}  # model_type -> class, as transformers' tables have them
