"""Setting up transformers' common tests: no network, and two things that they take for granted."""

import functools
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from upstream import test_modeling_common

from aga_model import AgaForPreTraining

# As in tests/: one thread each is faster than several that fight.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def only_known_settings(monkeypatch):
    """
    Some tests set seven names of epsilons in a configuration, whichever it has, save it and load it again. AGA's
    configurations refuse keys that they do not know, so the others are taken out again.
    """
    enlarge = test_modeling_common.set_config_for_less_flaky_test

    def enlarge_known(config):
        sections = [config, *(getattr(config, key) for key in config.sub_configs)]
        known = [set(vars(section)) for section in sections]
        enlarge(config)
        for section, names in zip(sections, known):
            for name in set(vars(section)) - names:
                delattr(section, name)

    monkeypatch.setattr(test_modeling_common, "set_config_for_less_flaky_test", enlarge_known)


@pytest.fixture(autouse=True)
def same_draws(monkeypatch):
    """
    Many tests compare two forward passes. Pre-training draws masked words and hard negatives, in evaluation too: here
    every pass draws the same.
    """
    forward = AgaForPreTraining.forward

    @functools.wraps(forward)
    def seeded(self, *args, **kwargs):
        torch.manual_seed(0)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(AgaForPreTraining, "forward", seeded)
