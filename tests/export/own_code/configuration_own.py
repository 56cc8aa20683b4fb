from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own_decoder"

    def __init__(self, vocab_size=256, hidden_size=64, num_attention_heads=4, num_hidden_layers=4, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_hidden_layers = num_hidden_layers
        super().__init__(**kwargs)
