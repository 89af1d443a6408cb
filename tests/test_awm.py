"""AWM: which patches are kept, that they are the ones the encoder sees, and that all of them count otherwise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from aga_model import AgaConfig, AgaForPreTraining
from aga_model.masking import best_patches
from aga_model.training.momentum import MomentumModel

AWM = {"image_keep_ratio": 0.5, "momentum": 0.9, "distillation_weight": 0.0}


@given(
    scores=st.lists(st.lists(st.integers(0, 5), min_size=9, max_size=9), min_size=1, max_size=4),
    keep_ratio=st.floats(0.01, 1.0),
)
def test_exactly_the_best_are_kept_in_order(scores, keep_ratio):
    kept = best_patches(torch.tensor(scores, dtype=torch.float32), keep_ratio).tolist()
    for row, chosen in zip(scores, kept):
        best = sorted(range(9), key=lambda patch: (-row[patch], patch))[: max(1, round(keep_ratio * 9))]
        assert chosen == sorted(best)


@pytest.fixture(params=["clip", "bert"])
def make(request, make_sections):
    """A model of either family, in training."""

    def build(**objective):
        torch.manual_seed(3)
        return AgaForPreTraining(AgaConfig(**make_sections(request.param, **objective))).train()

    return build


def test_kept_patches_are_what_the_encoder_sees(make, batch):
    """Attention masked to the kept patches is an independent way to the same embedding."""
    tower = make().eval().aga.vision_model
    pixels = batch["pixel_values"]
    patches = tower.embeddings.num_patches
    kept = torch.stack([torch.randperm(patches)[: patches // 2].sort().values for _ in pixels])
    short = tower(pixels, kept_patches=kept).last_hidden_state
    visible = torch.zeros(len(pixels), patches + 1, dtype=torch.bool)
    visible[:, 0] = True
    visible.scatter_(1, kept + 1, True)
    mask = visible[:, None, None, :].expand(-1, 1, patches + 1, -1)
    states = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers:
        states = layer(states, mask)
        states = states[0] if isinstance(states, tuple) else states
    rows = torch.arange(len(pixels))[:, None]
    torch.testing.assert_close(short[:, 0], states[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(short[:, 1:], states[rows, kept + 1], atol=1e-5, rtol=1e-5)


def test_keeping_all_patches_is_the_plain_model(make, batch):
    model = make(image_keep_ratio=1.0)
    pixels = batch["pixel_values"]
    everything = torch.arange(model.aga.vision_model.embeddings.num_patches).expand(len(pixels), -1)
    plain = model.aga.get_image_features(pixels).pooler_output
    torch.testing.assert_close(
        model.aga.get_image_features(pixels, kept_patches=everything).pooler_output, plain, atol=1e-6, rtol=0
    )
    assert model(**batch).kept_patches is None


def test_scores_are_the_attention_of_eager(make, batch):
    model = make().eval()
    _, fast = model.aga.get_image_features_with_attention(batch["pixel_values"])
    model.aga.vision_model.set_attn_implementation("eager")
    outputs = model.aga.vision_model(batch["pixel_values"], output_attentions=True)
    wanted = torch.stack([attention[:, :, 0, 1:].mean(dim=1) for attention in outputs.attentions]).mean(dim=0)
    torch.testing.assert_close(fast, wanted, atol=1e-6, rtol=0)


def test_the_momentum_model_chooses_and_the_step_takes_its_choice(make, batch):
    model = make(**AWM)
    teacher = MomentumModel(model)
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    output = model(**batch, momentum_model=teacher)
    _, attention = teacher.model.aga.get_image_features_with_attention(batch["pixel_values"])
    assert torch.equal(output.kept_patches, best_patches(attention, 0.5))
    vision = model.aga.get_image_features(batch["pixel_values"], kept_patches=output.kept_patches)
    torch.testing.assert_close(output.image_embeds, F.normalize(vision.pooler_output, dim=-1))
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_evaluation_sees_all_patches(make, batch):
    model = make(**AWM).eval()
    output = model(**batch, momentum_model=MomentumModel(model))
    assert output.kept_patches is None
    plain = model.aga.get_image_features(batch["pixel_values"]).pooler_output
    torch.testing.assert_close(output.image_embeds, F.normalize(plain, dim=-1))


def test_the_end_of_training_can_see_all_patches(make, batch):
    model = make(**AWM, image_keep_until=0.5)
    teacher = MomentumModel(model)
    for progress, dropped in ((0.0, True), (0.49, True), (0.5, False), (1.0, False)):
        model.training_progress = progress
        output = model(**batch, momentum_model=teacher)
        assert (output.kept_patches is not None) == dropped
    plain = model.aga.get_image_features(batch["pixel_values"]).pooler_output
    torch.testing.assert_close(output.image_embeds, F.normalize(plain, dim=-1))


def test_random_dropping_needs_no_momentum_model(make, batch):
    model = make(image_keep_ratio=0.5, image_mask_strategy="random")
    kept = torch.stack([model(**batch).kept_patches for _ in range(40)])
    patches = model.aga.vision_model.embeddings.num_patches
    assert kept.shape[-1] == patches // 2 and (kept.diff(dim=-1) > 0).all()
    counts = kept.flatten().bincount(minlength=patches).float() / (40 * len(batch["input_ids"]))
    assert counts.min() > 0.3 and counts.max() < 0.7  # each patch about half of the time


def test_patch_scores_alone_ask_nothing_else_of_the_momentum_model(make, batch, monkeypatch):
    model = make(**AWM, enrichment="none", loss_weights={"sdm": 1.0, "mlm": 1.0})
    teacher = MomentumModel(model)

    def forbidden(*args, **kwargs):
        raise AssertionError("only the patch scores are used")

    monkeypatch.setattr(teacher.model, "mlm_logits", forbidden)
    monkeypatch.setattr(teacher.model.aga, "get_text_features", forbidden)
    model(**batch, momentum_model=teacher).loss.backward()


def test_scores_at_a_lower_resolution_cover_the_grid(make, batch):
    model = make(**AWM, image_score_resolution=0.5)
    _, attention = model.aga.get_image_features_with_attention(batch["pixel_values"], 0.5)
    assert attention.shape == (len(batch["pixel_values"]), model.aga.vision_model.embeddings.num_patches)
    output = model(**batch, momentum_model=MomentumModel(model))
    assert output.kept_patches.shape[1] == round(0.5 * attention.shape[1])


def test_smaller_images_are_of_the_nearest_number_of_whole_patches(make):
    """Of 32 x 16 pixels in patches of 8: a share of 0.7 is 2.8 x 1.4 patches, one of 0.2 none, which is one."""
    pixels = torch.arange(32.0)[:, None].expand(1, 3, 32, 16)
    for resolution, size in ((0.7, (24, 8)), (0.5, (16, 8)), (0.2, (8, 8))):
        smaller = make().aga._smaller(pixels, resolution)
        assert tuple(smaller.shape[-2:]) == size
        assert smaller.mean().item() == pytest.approx(15.5, abs=0.1)


@pytest.mark.parametrize("resolution", [0.4, 0.5, 0.8])
def test_scores_of_patches_that_leave_pixels_over(make_sections, batch, resolution):
    """Strides that divide neither the image nor the smaller one that is scored."""
    sections = make_sections("clip", **AWM, image_score_resolution=resolution)
    sections["vision_config"] |= {"image_size": [45, 26], "stride": 6}
    model = AgaForPreTraining(AgaConfig(**sections)).train()
    pixels = torch.randn(4, 3, 45, 26)
    _, attention = model.aga.get_image_features_with_attention(pixels, resolution)
    assert model.config.vision_config.grid_size == (7, 4)  # (45 - 8) // 6 + 1, (26 - 8) // 6 + 1
    assert attention.shape == (4, 28) and torch.isfinite(attention).all()
    output = model(**batch | {"pixel_values": pixels}, momentum_model=MomentumModel(model))
    assert output.kept_patches.shape == (4, 14) and output.kept_patches.max() < 28
    output.loss.backward()


def test_attention_that_is_not_given_is_named(make, batch):
    model = make(**AWM)
    teacher = MomentumModel(model)
    teacher.model.aga.vision_model.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="returns no attention rows"):
        model(**batch, momentum_model=teacher)


@pytest.mark.parametrize(
    ("objective", "named"),
    [
        ({"image_keep_ratio": 0.5}, "give momentum"),
        ({"image_keep_ratio": 0.0}, "image_keep_ratio must lie in"),
        ({"image_keep_until": 1.5}, "image_keep_until must lie in"),
        ({"image_mask_strategy": "best"}, "choose one of attention, random"),
        ({"bsdm_kl_weights": [0.0, 0.0]}, "bsdm_kl_weights"),
        ({"waf_weighting": "inverse"}, "choose one of uniform, hard, plausible, trusted"),
        ({"waf_target": "identity", "loss_weights": {"waf": 1.0}}, "num_identities must be"),
    ],
)
def test_bad_settings_are_named(objective, named):
    with pytest.raises(ValueError, match=named):
        AgaConfig(objective_config=objective)


def test_coarse_scores_keep_their_place_on_the_grid(make, batch, monkeypatch):
    """Two coarse patches above each other, of 1 and 3, on a grid of 4 x 2: bilinear by hand."""
    model = make()
    monkeypatch.setattr("aga_model.modeling_aga.patch_attention", lambda rows: torch.tensor([[1.0, 3.0]] * 4))
    _, attention = model.aga.get_image_features_with_attention(batch["pixel_values"], 0.5)
    torch.testing.assert_close(attention, torch.tensor([[1.0, 1.0, 1.5, 1.5, 2.5, 2.5, 3.0, 3.0]] * 4))


def test_positions_of_a_smaller_image_are_those_of_its_places(make_sections):
    """Of a table that rises by 1 a row and 10 a column, a patch of twice the size is in the middle of four."""
    sections = make_sections("clip")
    sections["vision_config"] |= {"image_size": [64, 64], "patch_size": 8}
    embeddings = AgaForPreTraining(AgaConfig(**sections)).aga.vision_model.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.zero_()
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        embeddings.position_embedding.weight[1:] = (rows + 10 * columns).flatten()[:, None]
        found = embeddings(torch.zeros(1, 3, 32, 32), interpolate_pos_encoding=True)[0, 1:, 0].view(4, 4)
    middle = torch.tensor([2.5, 4.5])  # behind the border, which bicubic bends
    torch.testing.assert_close(found[1:3, 1:3], middle[:, None] + 10 * middle[None], atol=1e-3, rtol=0)
