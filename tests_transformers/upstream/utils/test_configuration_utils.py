"""Stand-in for the one thing that the common tests take of transformers' tests of `PreTrainedConfig`."""

# The fields that every configuration has, with values that are not the defaults: each must arrive.
config_common_kwargs = {
    "architectures": ["AgaModel"],
    "chunk_size_feed_forward": 5,
    "dtype": "float16",
    "id2label": {0: "label"},
    "is_encoder_decoder": True,
    "label2id": {"label": 0},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}
