"""
transformers' common tests of a processor, on [`AgaProcessor`] with a tokenizer of either family.

The tests skip themselves where they ask for what the processor does not take: videos, sound, chat templates, and
placeholders for images within a text.
"""

import functools
import unittest
from unittest import mock

from transformers import BertTokenizer, CLIPImageProcessorPil
from upstream.test_processing_common import ProcessorTesterMixin

from aga_model import AgaProcessor
from aga_model.data import train_tokenizer

# Of the captions of the common tests.
WORDS = ["lower", "newer", "upper", "older", "longer", "string"]


def without_code(test):
    """
    The test with a processor that does not save its code: it compares a processor that was saved, in which
    transformers then notes where the code is, with a loaded one, from which it takes that note.
    """

    @functools.wraps(test)
    def run(self):
        with mock.patch.object(AgaProcessor, "_auto_class", None):
            test(self)

    return run


class ProcessorTester(ProcessorTesterMixin):
    """What both families share: image processing."""

    processor_class = AgaProcessor

    test_processor_from_and_save_pretrained = without_code(
        ProcessorTesterMixin.test_processor_from_and_save_pretrained
    )
    test_processor_from_and_save_pretrained_as_nested_dict = without_code(
        ProcessorTesterMixin.test_processor_from_and_save_pretrained_as_nested_dict
    )

    @classmethod
    def _setup_image_processor(cls):
        return CLIPImageProcessorPil(size={"height": 32, "width": 16}, do_center_crop=False)


class ClipProcessorTest(ProcessorTester, unittest.TestCase):
    @classmethod
    def _setup_tokenizer(cls):
        return train_tokenizer(WORDS, vocab_size=530)


class BertProcessorTest(ProcessorTester, unittest.TestCase):
    @classmethod
    def _setup_tokenizer(cls):
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        return BertTokenizer(vocab={entry: index for index, entry in enumerate(specials + WORDS)}, model_max_length=64)
