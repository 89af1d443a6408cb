"""
transformers' common tests of a model, on the three models, and on their towers, of both families.

Beside what is skipped by name here, with the reason, the tests skip themselves where they ask for what is not there:

- a GPU or several, flash attention, kernels, DeepSpeed, or the slow tests asked for (RUN_SLOW);
- what no model here has: a language model's head, `inputs_embeds`, position embeddings that can be resized, experts,
  RoPE, sliding windows, tensor parallel plans, weights kept in float32, renamed weights of older checkpoints, an entry
  in transformers' own tables of models;
- training, where a model has no loss; sections, where it is a tower; a tower's SDPA, where it is a composite.
"""

import functools
import unittest
from unittest import mock

import torch
from testers import CompositeTester, TextTester, VisionTester
from transformers import set_seed
from upstream.test_modeling_common import ModelTesterMixin

from aga_model import AgaForImageTextRetrieval, AgaForPreTraining, AgaModel
from aga_model.towers import AgaBertTextModel, AgaTextModel, AgaVisionModel, PooledRowMixin


def skipped(beginning: str, reason: str):
    """Class decorator that skips every common test whose name begins so; there must be one."""

    def decorate(test_class: type) -> type:
        names = [name for name in dir(test_class) if name.startswith(beginning)]
        assert names, f"{test_class.__name__} has no test {beginning}..."
        for name in names:
            setattr(test_class, name, unittest.skip(reason)(getattr(test_class, name)))
        return test_class

    return decorate


def with_plain_sdpa(test):
    """The test, which looks for the name `sdpa`, with towers that do not put the name of their own in its place."""

    @functools.wraps(test)
    def run(self):
        with mock.patch.object(PooledRowMixin, "use_pooled_row"):
            test(self)

    return run


class AgaTester(ModelTesterMixin):
    """What holds for models and towers."""

    # transformers excuses models without a recent copyright line.
    test_can_init_all_missing_weights_before_2023 = True

    test_can_set_attention_dynamically = with_plain_sdpa(ModelTesterMixin.test_can_set_attention_dynamically)


class ModelTester(AgaTester):
    """What holds for the three models."""

    _is_composite = True
    additional_model_inputs = ("pixel_values",)

    test_can_set_attention_dynamically_composite_model = with_plain_sdpa(
        ModelTesterMixin.test_can_set_attention_dynamically_composite_model
    )
    test_sdpa_can_dispatch_composite_models = with_plain_sdpa(ModelTesterMixin.test_sdpa_can_dispatch_composite_models)


@skipped("test_attention_outputs", "a composite's attentions are its towers', which are tested below")
@skipped("test_hidden_states_output", "a composite's hidden states are its towers', which are tested below")
@skipped(
    "test_retain_grad_hidden_states_attentions", "a composite's hidden states are its towers', which are tested below"
)
class DualEncoderTester(ModelTester):
    """[`AgaModel`]."""

    all_model_classes = (AgaModel,)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return inputs | {"return_loss": True} if return_labels else inputs


class ClipDualEncoderTest(DualEncoderTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = CompositeTester("clip")


class BertDualEncoderTest(DualEncoderTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = CompositeTester("bert")


NO_STATES = "it gives losses or scores, neither hidden states nor attentions; AgaModel and the towers do"


@skipped("test_attention_outputs", NO_STATES)
@skipped("test_can_capture_specific_layers_hidden_states", NO_STATES)
@skipped("test_capture_outputs_decorator", NO_STATES)
@skipped("test_eager_matches_sdpa_inference", f"{NO_STATES}; test_eager_equals_sdpa compares what it gives")
@skipped("test_hidden_states_output", NO_STATES)
@skipped("test_model_outputs_equivalence", f"{NO_STATES}; test_tuple_equals_output compares what it gives")
@skipped("test_retain_grad_hidden_states_attentions", NO_STATES)
class HeadTester(ModelTester):
    """The models with a fusion encoder and heads."""

    objective = {"loss_weights": {"itc": 1.0, "itm": 1.0, "mlm": 1.0}}  # noqa: RUF012 - read, never written

    def model_and_inputs(self):
        set_seed(0)
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return self.all_model_classes[0](config).eval(), inputs

    def test_eager_equals_sdpa(self):
        model, inputs = self.model_and_inputs()
        with torch.no_grad():
            sdpa = model(**inputs)
            model.set_attn_implementation("eager")
            eager = model(**inputs)
        torch.testing.assert_close(dict(eager), dict(sdpa), atol=1e-5, rtol=1e-4)

    def test_tuple_equals_output(self):
        model, inputs = self.model_and_inputs()
        with torch.no_grad():
            output, values = model(**inputs), model(**inputs, return_dict=False)
        self.assertIsInstance(values, tuple)
        torch.testing.assert_close(values, output.to_tuple(), atol=0, rtol=0)


class PreTrainingTester(HeadTester):
    """[`AgaForPreTraining`], with the losses of all heads but the identities'."""

    all_model_classes = (AgaForPreTraining,)

    def test_batching_equivalence(self):
        # Without MLM: a smaller batch takes fewer random numbers, so that other words are masked.
        self.model_tester.objective = {"loss_weights": {"itc": 1.0, "itm": 1.0}}
        super().test_batching_equivalence()


class ClipPreTrainingTest(PreTrainingTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = CompositeTester("clip", **self.objective)


class BertPreTrainingTest(PreTrainingTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = CompositeTester("bert", **self.objective)


class RetrievalTester(HeadTester):
    """[`AgaForImageTextRetrieval`], which scores and has no loss: the tests of training skip themselves."""

    all_model_classes = (AgaForImageTextRetrieval,)


class ClipRetrievalTest(RetrievalTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = CompositeTester("clip", is_training=False, **self.objective)


class BertRetrievalTest(RetrievalTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = CompositeTester("bert", is_training=False, **self.objective)


class TowerTester(AgaTester):
    """The towers, which have no loss: the tests of training skip themselves, those of the models train them."""

    test_sdpa_can_dispatch_non_composite_models = with_plain_sdpa(
        ModelTesterMixin.test_sdpa_can_dispatch_non_composite_models
    )


NOTHING_TIED = "nothing of this tower could be tied, and its configuration refuses the key tie_word_embeddings"


@skipped("test_load_save_without_tied_weights", NOTHING_TIED)
class ClipTextTowerTest(TowerTester, unittest.TestCase):
    all_model_classes = (AgaTextModel,)

    def setUp(self):
        self.model_tester = TextTester("clip", is_training=False)


class BertTextTowerTest(TowerTester, unittest.TestCase):
    all_model_classes = (AgaBertTextModel,)

    def setUp(self):
        self.model_tester = TextTester("bert", is_training=False)


@skipped("test_load_save_without_tied_weights", NOTHING_TIED)
@skipped("test_model_get_set_embeddings", "its input embedding is a convolution over pixels, as CLIP's")
class VisionTowerTester(TowerTester):
    """A vision tower: it has no vocabulary to resize."""

    all_model_classes = (AgaVisionModel,)
    test_resize_embeddings = False


class ClipVisionTowerTest(VisionTowerTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = VisionTester("clip", is_training=False)


class BertVisionTowerTest(VisionTowerTester, unittest.TestCase):
    def setUp(self):
        self.model_tester = VisionTester("bert", is_training=False)
