"""Tiny configurations and inputs for transformers' common tests, in the form that their mixins read."""

import torch
from upstream.test_modeling_common import floats_tensor, ids_tensor

from aga_model import AgaConfig

# Large enough for the default ids of BERT's special tokens, 101 to 103, which a common test goes back to.
VOCABULARY, CAPTION_LENGTH = 128, 16
# Low ids, because a common test cuts the vocabulary to 20 entries.
SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}
FIRST_WORD = 4
LAYERS = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


class CompositeTester:
    """A whole model: captions of two lengths and images."""

    # Seven, as the comparison of eager and SDPA wants: it fills up a smaller batch with captions without an end.
    batch_size = 7
    seq_length = 9
    hidden_size = 32
    num_hidden_layers = LAYERS["num_hidden_layers"]
    num_attention_heads = LAYERS["num_attention_heads"]

    def __init__(self, family: str, is_training: bool = True, **objective):
        self.family = family
        self.is_training = is_training
        self.objective = objective

    def get_config(self) -> AgaConfig:
        tower = LAYERS | {"hidden_size": self.hidden_size}
        text = tower | SPECIAL_TOKENS | {"vocab_size": VOCABULARY, "max_position_embeddings": CAPTION_LENGTH}
        if self.family == "bert":
            text |= {"pad_token_id": 0, "caption_length": CAPTION_LENGTH}
        return AgaConfig(
            family=self.family,
            projection_dim=24,
            text_config=text,
            vision_config=tower | {"image_size": [32, 16], "patch_size": 8},
            cross_modal_config=LAYERS,
            objective_config=self.objective,
        )

    def captions(self, config: AgaConfig) -> dict[str, torch.Tensor]:
        """Captions of which the first is two words shorter."""
        text = config.text_config
        ids = FIRST_WORD + ids_tensor([self.batch_size, self.seq_length], VOCABULARY - FIRST_WORD)
        ids[:, 0], ids[:, -1] = text.bos_token_id, text.eos_token_id
        mask = torch.ones_like(ids)
        ids[0, -3], ids[0, -2:], mask[0, -2:] = text.eos_token_id, text.pad_token_id, 0
        return {"input_ids": ids, "attention_mask": mask}

    def images(self) -> dict[str, torch.Tensor]:
        return {"pixel_values": floats_tensor([self.batch_size, 3, 32, 16])}

    def prepare_config_and_inputs_for_common(self) -> tuple:
        config = self.get_config()
        return config, self.captions(config) | self.images()


class TextTester(CompositeTester):
    """A text tower."""

    def prepare_config_and_inputs_for_common(self) -> tuple:
        config = self.get_config()
        return config.text_config, self.captions(config)


class VisionTester(CompositeTester):
    """A vision tower, whose tokens are eight patches and the class token."""

    def prepare_config_and_inputs_for_common(self) -> tuple:
        return self.get_config().vision_config, self.images()
