"""transformers' common tests of a configuration, on [`AgaConfig`] and the sections of both families."""

import unittest

from testers import CompositeTester
from upstream.test_configuration_common import ConfigTester

from aga_model import AgaConfig
from aga_model.configuration_aga import (
    AgaBertFusionConfig,
    AgaBertTextConfig,
    AgaFusionConfig,
    AgaObjectiveConfig,
    AgaTextConfig,
    AgaVisionConfig,
    AgaViTConfig,
)
from aga_model.families import FAMILIES


class BertFamilyConfig(AgaConfig):
    """The common tests make a configuration from its class alone and read the sections' classes off that class."""

    sub_configs = AgaConfig.sub_configs | FAMILIES["bert"].sections
    family: str = "bert"


class ConfigurationTest(unittest.TestCase):
    def check(self, config_class, has_text_modality=False, **settings):
        ConfigTester(self, config_class, has_text_modality, **settings).run_common_tests()

    def test_clip_family(self):
        self.model_tester = CompositeTester("clip")
        self.check(AgaConfig, common_properties=["projection_dim", "family", "logit_scale_init_value"])

    def test_bert_family(self):
        self.model_tester = CompositeTester("bert")
        self.check(BertFamilyConfig, common_properties=["projection_dim", "family", "logit_scale_init_value"])

    def test_clip_text(self):
        self.check(AgaTextConfig, has_text_modality=True, hidden_size=32, num_attention_heads=4)

    def test_bert_text(self):
        self.check(AgaBertTextConfig, has_text_modality=True, hidden_size=32, num_attention_heads=4)

    def test_clip_vision(self):
        self.check(AgaVisionConfig, image_size=[64, 32], patch_size=8, stride=4)

    def test_bert_vision(self):
        self.check(AgaViTConfig, image_size=[64, 32], patch_size=8, stride=4)

    def test_clip_fusion(self):
        self.check(AgaFusionConfig, num_hidden_layers=2, cross_attention_residual=True)

    def test_bert_fusion(self):
        self.check(AgaBertFusionConfig, num_hidden_layers=2, encoder_width=48)

    def test_objective(self):
        properties = ["loss_weights", "mask_strategy", "enrichment"]
        self.check(AgaObjectiveConfig, common_properties=properties, loss_weights={"sdm": 1.0}, mask_ratio=0.3)
