"""Words, heat and contributions against computations of their own; both families; pictures that show them."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import BertTokenizer

from aga_model import AgaConfig, AgaForImageTextRetrieval, AgaForPreTraining, AgaModel, AgaProcessor
from aga_model.configuration_aga import AgaVisionConfig
from aga_model.errors import ModelLoadError
from aga_model.search import (
    Explainer,
    Explanation,
    PersonEncoder,
    Reranker,
    TextTruncatedWarning,
    explanation_image,
    save_explanation_picture,
)
from aga_model.search.explanation import (
    METHODS,
    blank,
    image_on_grid,
    occlusion_heat,
    occlusion_windows,
    read_words,
    recorded_cross_attention,
    word_spans,
)
from aga_model.search.explanation_picture import _on_image

QUERY = "A young man wearing a navy-blue jacket, black trousers: a BLACK jacket!"
WORDS = ["A", "young", "man", "wearing", "a", "navy-blue", "jacket", "black", "trousers", "a", "BLACK", "jacket"]
ROWS, COLUMNS = 4, 2
KINDS = ("clip", "irra", "bert")


def image(seed=0, size=(20, 45)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folders():
    """What `save_model` has saved, by its arguments."""
    return {}


@pytest.fixture
def save_model(make_sections, tokenizer, tmp_path_factory, folders):
    """The folder of a tiny model, far from a new one, with its processor. It is shared: nothing is to change it."""

    def save(kind, **weights):
        key = kind, tuple(weights)
        if key in folders:
            return folders[key]
        sections = make_sections("bert" if kind == "bert" else "clip", loss_weights=weights or {"itm": 1.0})
        if kind == "bert":
            sections["cross_modal_config"]["num_hidden_layers"] = 2
        if kind == "irra":
            sections["cross_modal_config"] = {
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "attended_padding_id": 0,
            }
        config = AgaConfig(**sections)
        torch.manual_seed(0)
        model = AgaForPreTraining(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter += 0.2 * torch.randn_like(parameter)
        folders[key] = tmp_path_factory.mktemp(kind) / "model"
        model.save_pretrained(folders[key])
        AgaProcessor.for_config(config, tokenizer).save_pretrained(folders[key])
        return folders[key]

    return save


@pytest.fixture(params=KINDS)
def encoder(request, save_model):
    return PersonEncoder.from_pretrained(save_model(request.param), device="cpu")


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (QUERY, WORDS),
        ("a t-shirt - 'plaid', it's the man\u2019s", ["a", "t-shirt", "plaid", "it's", "the", "man\u2019s"]),
        ("red,blue/green (size 10)_x", ["red", "blue", "green", "size", "10", "x"]),
        ("cafe\u0301 Стул लाल कोट 👩🏽 穿红色外套", ["cafe\u0301", "Стул", "लाल", "कोट", "穿红色外套"]),
        (" .,! \u200b", []),
    ],
)
def test_words_are_those_of_the_text(text, words):
    assert [text[start:end] for start, end in word_spans(text)] == words


def tokenizing(tokenizer, length=77):
    """As much of an encoder as reading words takes."""
    names = ("bos", "eos", "mask", "pad", "unk")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    if special["bos_token_id"] is None:  # BERT's
        special |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    config = SimpleNamespace(text_config=SimpleNamespace(**special))
    return SimpleNamespace(
        processor=SimpleNamespace(tokenizer=tokenizer),
        max_text_tokens=length,
        model=SimpleNamespace(config=config),
        device=torch.device("cpu"),
    )


def test_tokens_of_a_word_in_bytes_are_merged(model_folder):
    """The tiny model's tokenizer spells words in bytes, so that a word has as many tokens as bytes."""
    tokenizer = AgaProcessor.from_pretrained(model_folder).tokenizer
    query = "Red coat, red caf\u00e9: \u7a7f red!"
    words = read_words(tokenizing(tokenizer), query)
    found = [query[start:end] for start, end in words.spans]
    assert found == ["Red", "coat", "red", "caf\u00e9", "\u7a7f", "red"]
    assert [len(members) for members in words.members] == [len(word.encode()) for word in found]
    texts = [tokenizer.decode(words.input_ids[0, members]).strip() for members in words.members]
    assert texts == [word.lower() for word in found]
    positions = [position for members in words.members for position in members]
    assert len(set(positions)) == len(positions)
    rest = set(range(words.input_ids.shape[1])) - set(positions)
    assert tokenizer.decode(words.input_ids[0, sorted(rest)]).replace(" ", "") == "<|startoftext|>,:!<|endoftext|>"


def test_word_pieces_are_merged():
    entries = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "back",
        "##pack",
        "##s",
        "t",
        "-",
        "shirt",
        "red",
        ",",
    ]
    tokenizer = BertTokenizer(vocab={entry: index for index, entry in enumerate(entries)})
    words = read_words(tokenizing(tokenizer), "A T-shirt, backpacks and R\u00e9d red")
    pieces = [tokenizer.convert_ids_to_tokens(words.input_ids[0, members].tolist()) for members in words.members]
    assert pieces == [["a"], ["t", "-", "shirt"], ["back", "##pack", "##s"], ["[UNK]"], ["red"], ["red"]]


def test_words_behind_the_text_length_are_left_out(model_folder):
    tokenizer = AgaProcessor.from_pretrained(model_folder).tokenizer
    words = read_words(tokenizing(tokenizer, length=12), "red coat jacket")  # 1 + 3 + 4 + 3 of 6 + 1
    assert words.spans == [(0, 3), (4, 8)]
    with pytest.raises(ValueError, match="reads 12 tokens and finds no whole word"):
        read_words(tokenizing(tokenizer, length=12), "Donaudampfschifffahrt")


def test_a_long_query_is_cut_with_the_encoders_warning(encoder):
    explainer = Explainer.from_encoder(encoder)
    with pytest.warns(TextTruncatedWarning, match="the model reads 40"):
        explanation = explainer.explain(image(), "black trousers " * 40)
    assert 2 <= len(explanation.words) < 40
    assert len(explanation.heat) == len(explanation.contributions) == len(explanation.words)


def test_queries_without_a_word(save_model):
    explainer = Explainer.from_encoder(PersonEncoder.from_pretrained(save_model("clip"), device="cpu"))
    for query, message in (("", "empty"), (" ", "empty"), (".!", "no word"), ("\udcff", "Unicode")):
        with pytest.raises(ValueError, match=message):
            explainer.explain(image(), query)


def test_special_tokens_in_a_query_are_no_words(encoder):
    end = encoder.processor.tokenizer.eos_token
    explanation = Explainer.from_encoder(encoder).explain(image(), f"a man {end} jacket")
    assert explanation.words == ("a", "man")  # as much as the model reads


# --- cross-attention --------------------------------------------------------------------------------------------


def fusion_inputs(explainer, query, picture):
    model, processor = explainer.fusion_model, explainer.encoder.processor
    text = processor(text=[query], return_tensors="pt")
    states, mask = model.caption_states(text["input_ids"], text["attention_mask"])
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    return states, model.aga.fusion_image_states(model.aga.get_image_features(pixels)), mask


def own_attention(module, states, context, bert):
    """Weights (1, heads, seq, patches + 1) and output (1, seq, dim) from a cross-attention's projections."""
    if bert:
        inner = module.self
        layers = inner.query, inner.key, inner.value
        heads = inner.num_attention_heads
    else:
        layers, heads = (module.q_proj, module.k_proj, module.v_proj), module.num_heads
    query, key, value = (
        layer(inputs).unflatten(-1, (heads, -1)).transpose(1, 2)
        for layer, inputs in zip(layers, (states, context, context))
    )
    weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)
    attended = (weights @ value).transpose(1, 2).flatten(2)
    return weights, module.output(attended, states) if bert else module.out_proj(attended)


@torch.no_grad()
def test_recorded_weights_are_those_of_the_attended_output(encoder):
    explainer = Explainer.from_encoder(encoder, "cross_attention")
    fusion, bert = explainer.fusion_model.fusion, encoder.model.config.family == "bert"
    states, image_states, mask = fusion_inputs(explainer, QUERY, image())
    wanted = fusion(states, image_states, mask)
    modules = [layer.crossattention for layer in fusion.layers] if bert else [fusion.cross_attn]
    calls = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, kwargs, output: calls.append((inputs, kwargs, output[0])), with_kwargs=True
        )
        for module in modules
    ]
    implementation = fusion.config._attn_implementation
    with recorded_cross_attention(fusion) as recorded:
        fused = fusion(states, image_states, mask)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(fused, wanted, atol=1e-5, rtol=0)
    assert fusion.config._attn_implementation == implementation != "eager" and len(recorded) == len(modules)
    for module, weights, (inputs, kwargs, output) in zip(modules, recorded, calls):
        context = kwargs["encoder_hidden_states"] if bert else inputs[1]
        own_weights, own_output = own_attention(module, inputs[0], context, bert)
        assert weights.shape == (1, own_weights.shape[1], states.shape[1], ROWS * COLUMNS + 1)
        torch.testing.assert_close(weights, own_weights, atol=1e-5, rtol=0)
        torch.testing.assert_close(output, own_output, atol=1e-5, rtol=0)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))  # with the class patch
    assert not any(module._forward_hooks for module in modules)


@torch.no_grad()
def test_cross_attention_heat_is_the_mean_over_tokens_heads_and_layers(encoder):
    explainer = Explainer.from_encoder(encoder, "cross_attention")
    explanation = explainer.explain(image(), QUERY)
    assert explanation.method == "cross_attention" and list(explanation.words) == WORDS
    with recorded_cross_attention(explainer.fusion_model.fusion) as recorded:
        states, image_states, mask = fusion_inputs(explainer, QUERY, image())
        explainer.fusion_model.fusion(states, image_states, mask)
    members = read_words(encoder, QUERY).members
    assert max(map(len, members)) > 1
    for heat, tokens in zip(explanation.heat, members):
        rows = [layer[0, head, token, 1:] for layer in recorded for head in range(layer.shape[1]) for token in tokens]
        wanted = torch.stack(rows).mean(dim=0)
        np.testing.assert_allclose(heat.ravel(), (wanted / wanted.sum()).numpy(), atol=1e-6)


# --- occlusion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "windows"), [((8, 4), 45), ((24, 8), 45), ((4, 2), 15), ((14, 14), 40)])
def test_windows_cover_every_patch_equally(grid, windows):
    for reach in (1, 2, 3):
        found = occlusion_windows(grid, reach)
        assert (found.sum(dim=0) == reach * reach).all() and found.any(dim=(1, 2)).all()
    assert len(occlusion_windows(grid)) == windows
    if grid[0] % 8 == 0:  # a quarter of the height times half of the width
        assert occlusion_windows(grid).sum(dim=(1, 2)).max() == grid[0] * grid[1] / 8


GRIDS = [
    ((384, 128), 16, 12),
    ((45, 26), 8, 6),
    ((96, 32), 16, 8),
    ((64, 32), 8, 8),
    ((90, 35), 16, 7),
    ((37, 19), 7, 4),
]


def _vision(size, patch, stride):
    return AgaVisionConfig(image_size=list(size), patch_size=patch, stride=stride)


def _centres(count, patch, stride):
    """Of the patches, in pixels from the edge."""
    return np.array([number * stride + patch / 2 for number in range(count)])


@pytest.mark.parametrize(("size", "patch", "stride"), GRIDS)
def test_a_window_blanks_the_pixels_nearest_to_its_patches(size, patch, stride):
    vision = _vision(size, patch, stride)
    rows, columns = vision.grid_size
    windows = occlusion_windows((rows, columns))
    blanked = blank(torch.ones(1, 1, *size), windows, vision)[:, 0] == 0
    nearest = []
    for side, count in zip(size, (rows, columns)):
        distances = np.abs(np.arange(side)[:, None] + 0.5 - _centres(count, patch, stride)[None])
        # Of two that are as near the lower one: a pixel that begins at their border.
        nearest.append(torch.from_numpy(count - 1 - distances[:, ::-1].argmin(axis=1)))
    wanted = windows[:, nearest[0]][:, :, nearest[1]]
    assert torch.equal(blanked, wanted) and blanked.any(dim=0).all()


@pytest.mark.parametrize(("size", "patch", "stride"), GRIDS)
def test_a_patchs_heat_is_drawn_at_its_centre(size, patch, stride):
    vision = _vision(size, patch, stride)
    rows, columns = vision.grid_size
    shown = (4 * size[1], 4 * size[0])
    for row, column in ((1, 1), (rows // 2, columns // 2), (rows - 2, max(1, columns - 2))):
        heat = np.zeros((rows, columns), dtype=np.float32)
        heat[row, column] = 1.0
        drawn = _on_image(heat, image_on_grid(vision), shown).clip(min=0)
        assert drawn.shape == shown[::-1]
        total = drawn.sum()
        for axis, place in ((0, row), (1, column)):
            places = np.arange(drawn.shape[axis]) + 0.5
            found = (drawn.sum(axis=1 - axis) * places).sum() / total / 4  # pixels of the model's input
            neighbours = 1 <= place < heat.shape[axis] - 1  # else the edge cuts the heat off
            assert not neighbours or abs(found - (place * stride + patch / 2)) < 0.1 * stride


def test_the_explanation_of_a_model_whose_patches_overlap(make_sections, tokenizer, tmp_path):
    sections = make_sections("clip", loss_weights={"itm": 1.0})
    sections["vision_config"] |= {"image_size": [45, 26], "stride": 6}
    config = AgaConfig(**sections)
    torch.manual_seed(0)
    AgaForPreTraining(config).save_pretrained(tmp_path)
    AgaProcessor.for_config(config, tokenizer).save_pretrained(tmp_path)
    encoder = PersonEncoder.from_pretrained(tmp_path, device="cpu")
    for method in METHODS:
        explanation = Explainer.from_encoder(encoder, method).explain(image(), QUERY)
        assert explanation.heat.shape == (len(WORDS), 7, 4)
        # The first cell begins a pixel inside: a patch of 8 around a step of 6.
        assert explanation.image_box == pytest.approx((-1 / 6, -1 / 6, 25 / 6, 44 / 6))
        assert explanation_image(explanation, image()).width > TILE


def test_heat_of_one_patch_that_matters():
    """A word that only needs one patch is hottest there, and nowhere else beyond a window's reach."""
    windows = occlusion_windows((8, 4))
    falls = torch.stack([windows[:, 5, 1].float(), -windows[:, 5, 1].float()])
    heat = occlusion_heat(falls, windows)
    assert heat[0].argmax() == 5 * 4 + 1 and heat[0, 5, 1] == 1.0 and not heat[1].any()
    assert not heat[0, :4].any() and not heat[0, 7:].any() and not heat[0, :, 3].any()


def text_rows(encoder, ids, mask):
    features = encoder.model.get_text_features(ids, mask).pooler_output
    return normalize(features, dim=-1)


@torch.no_grad()
def test_occlusion_equals_blanking_and_masking_one_by_one(encoder):
    explanation = Explainer.from_encoder(encoder, batch_size=4).explain(image(), QUERY)
    text = encoder.processor(text=[QUERY], return_tensors="pt")
    ids, mask = text["input_ids"], text["attention_mask"]
    pixels = encoder.processor(images=[image()], return_tensors="pt")["pixel_values"]
    sentence = text_rows(encoder, ids, mask)[0]

    def look(values):
        return normalize(encoder.model.get_image_features(values).pooler_output, dim=-1)

    seen, places, looks = look(pixels)[0], [], []
    for top in range(-1, ROWS):  # steps of one patch of 8 pixels, windows of two
        for left in range(-1, COLUMNS):
            blanked = pixels.clone()
            blanked[..., max(0, top) * 8 : (top + 2) * 8, max(0, left) * 8 : (left + 2) * 8] = 0
            places.append((slice(max(0, top), top + 2), slice(max(0, left), left + 2)))
            looks.append(look(blanked)[0])
    assert explanation.similarity == pytest.approx(float(sentence @ seen), abs=1e-5)
    signs = []
    for index, members in enumerate(read_words(encoder, QUERY).members):
        masked = ids.clone()
        masked[0, members] = encoder.processor.tokenizer.mask_token_id
        direction = sentence - text_rows(encoder, masked, mask)[0]
        whole = float(direction @ seen)
        assert explanation.contributions[index] == pytest.approx(whole, abs=1e-5)
        signs.append(whole > 0)
        heat, counts = np.zeros((ROWS, COLUMNS)), np.zeros((ROWS, COLUMNS))
        for place, blanked in zip(places, looks):
            heat[place] += (whole - float(direction @ blanked)) * np.sign(whole)
            counts[place] += 1
        heat = (heat / counts).clip(min=0)
        np.testing.assert_allclose(explanation.heat[index], heat / max(heat.sum(), 1e-12), atol=2e-4)
    assert any(signs) and not all(signs)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_explanation(encoder, method):
    explainer = Explainer.from_encoder(encoder, method)
    explanation = explainer.explain(image(), QUERY)
    assert list(explanation.words) == WORDS and explanation.query == QUERY
    assert [QUERY[start:end] for start, end in explanation.spans] == WORDS
    assert explanation.heat.dtype == np.float32 and explanation.heat.shape == (len(WORDS), ROWS, COLUMNS)
    assert (explanation.heat >= 0).all()
    sums = explanation.heat.sum(axis=(1, 2))
    assert (np.isclose(sums, 1, atol=1e-5) | (sums == 0)).all() and sums.any()
    similarity = encoder.encode_texts([QUERY])[0] @ encoder.encode_images([image()])[0]
    assert explanation.similarity == pytest.approx(float(similarity), abs=1e-6)
    text = encoder.processor(text=[QUERY], return_tensors="pt")
    _, attention = encoder.model.get_text_features_with_attention(text["input_ids"], text["attention_mask"])
    members = read_words(encoder, QUERY).members
    wanted = [float(attention[0, tokens].sum()) for tokens in members]
    np.testing.assert_allclose(explanation.attention, wanted, atol=1e-6)
    assert 0.5 < explanation.attention.sum() < 1  # punctuation gets the rest
    own = AgaForImageTextRetrieval.from_pretrained(encoder.folder).eval()
    pixels = encoder.processor(images=[image()], return_tensors="pt")["pixel_values"]
    assert explanation.itm_score == pytest.approx(own.score(pixels, **text).item(), abs=1e-4)
    again = explainer.explain(image(), QUERY)
    assert np.array_equal(again.heat, explanation.heat) and again.itm_score == explanation.itm_score
    assert np.array_equal(again.contributions, explanation.contributions)


def test_half_precision_models(encoder):
    explainers = [Explainer.from_encoder(encoder, method) for method in METHODS]
    wanted = [explainer.explain(image(), QUERY) for explainer in explainers]
    for explainer in explainers:
        explainer.fusion_model.to(torch.bfloat16)  # and with it the encoder's own model
    got = [explainer.explain(image(), QUERY) for explainer in explainers]
    for before, after in zip(wanted, got):
        assert after.heat.dtype == after.contributions.dtype == np.float32 and np.isfinite(after.heat).all()
        np.testing.assert_allclose(after.contributions, before.contributions, atol=0.05)
    np.testing.assert_allclose(got[1].heat, wanted[1].heat, atol=0.02)  # cross-attention takes no differences


# --- loading ----------------------------------------------------------------------------------------------------


def test_the_dual_encoder_is_held_once(encoder):
    explainer = Explainer.from_encoder(encoder)
    assert explainer.fusion_model.aga is encoder.model and not explainer.fusion_model.training
    shared = Explainer(encoder, Reranker.from_encoder(encoder).model, "cross_attention").explain(image(), QUERY)
    own = Explainer.from_encoder(encoder, "cross_attention").explain(image(), QUERY)
    assert shared.itm_score == own.itm_score and np.array_equal(shared.heat, own.heat)


def test_models_without_an_itm_head(save_model):
    encoder = PersonEncoder.from_pretrained(save_model("clip", itc=1.0, mlm=1.0), device="cpu")
    explanation = Explainer.from_encoder(encoder, "cross_attention").explain(image(), QUERY)
    assert explanation.itm_score is None and explanation.heat.any()


def test_models_without_a_fusion_encoder(save_model, tmp_path):
    trained_without = PersonEncoder.from_pretrained(save_model("clip", itc=1.0), device="cpu")
    folder = save_model("bert")
    AgaModel.from_pretrained(folder).save_pretrained(tmp_path / "alone")
    AgaProcessor.from_pretrained(folder).save_pretrained(tmp_path / "alone")
    saved_without = PersonEncoder.from_pretrained(tmp_path / "alone", device="cpu")
    for encoder in (trained_without, saved_without):
        explanation = Explainer.from_encoder(encoder).explain(image(), QUERY)
        assert explanation.itm_score is None and explanation.heat.any()
        with pytest.raises(ModelLoadError, match="no trained fusion encoder"):
            Explainer.from_encoder(encoder, "cross_attention")
        with pytest.raises(ValueError, match="needs a model with a fusion encoder"):
            Explainer(encoder, method="cross_attention")


def test_models_that_cannot_be_explained(save_model, tmp_path):
    folder = shutil.copytree(save_model("clip"), tmp_path / "model")
    encoder = PersonEncoder.from_pretrained(folder, device="cpu")
    with pytest.raises(ValueError, match=r"unknown method 'gradient'; choose one of occlusion, cross_attention"):
        Explainer.from_encoder(encoder, "gradient")
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file(
        {name: value for name, value in state.items() if "fusion.cross_attn.q" not in name}, path, {"format": "pt"}
    )
    with pytest.raises(ModelLoadError, match=r"lacks 2 weights, such as fusion.cross_attn.q_proj"):
        Explainer.from_encoder(encoder)
    encoder.folder = None
    with pytest.raises(ModelLoadError, match="no saved AGA model"):
        Explainer.from_encoder(encoder)


# --- pictures ---------------------------------------------------------------------------------------------------

GREEN, RED, ORANGE = (30, 150, 60), (200, 40, 40), (235, 120, 20)
TILE, MARGIN = 160, 16


def made_up(words, contributions, method="occlusion"):
    """Heat in the upper left patch of the first word, the lower right of all others."""
    heat = np.zeros((len(words), 8, 4), dtype=np.float32)
    heat[0, 0, 0] = heat[1:, 7, 3] = 1.0
    contributions = np.array(contributions, dtype=np.float32)
    spans = tuple((index, index + 1) for index in range(len(words)))
    return Explanation(" ".join(words), tuple(words), spans, heat, contributions, contributions, 0.25, None, method)


def centre_of(picture, colour):
    """Mean place of the pixels that lean to a colour, as shares of a tile: (column of the tile, x, y)."""
    pixels = np.asarray(picture).astype(int)
    strongest = np.argmax(colour)
    others = np.delete(pixels, strongest, axis=2).max(axis=2)
    rows, columns = np.nonzero(pixels[..., strongest] - others > 40)
    left = np.median(columns) - MARGIN
    return int(left // (TILE + MARGIN)), left % (TILE + MARGIN) / TILE, np.median(rows)


def test_heat_is_drawn_where_it_is():
    grey = Image.new("RGB", (60, 120), (128, 128, 128))
    picture = explanation_image(made_up(["red", "coat"], [0.2, -0.1]), grey)
    assert picture.width == MARGIN + 3 * (TILE + MARGIN)
    first, across, high = centre_of(picture, GREEN)
    second, far_across, low = centre_of(picture, RED)
    assert (first, second) == (1, 2) and across < 0.3 and far_across > 0.7 and low - high > 200
    attention = explanation_image(made_up(["red", "coat"], [0.2, -0.1], "cross_attention"), grey)
    orange = (np.abs(np.asarray(attention).astype(int) - ORANGE).max(axis=2) < 45).any(axis=0)
    assert orange[: 2 * (TILE + MARGIN)].any() and orange[2 * (TILE + MARGIN) :].any()


def test_words_with_the_largest_contributions_are_drawn():
    words = [f"word{number}" for number in range(12)]
    many = explanation_image(made_up(words, [0.1] * 12), image())
    assert many.width == MARGIN + 5 * (TILE + MARGIN)  # the image and nine words in two rows
    few = explanation_image(made_up(words, [0.1] * 3 + [0.005] * 9), image())
    assert few.width == MARGIN + 4 * (TILE + MARGIN) and few.height < 0.65 * many.height
    assert explanation_image(made_up(words, [0.1] * 12), image(), max_words=1).width == MARGIN + 3 * (TILE + MARGIN)
    assert explanation_image(made_up(words, [0.0] * 12), image()).size == many.size
    with pytest.raises(ValueError, match="max_words must be at least 1"):
        explanation_image(made_up(words, [0.1] * 12), image(), max_words=0)


@pytest.mark.parametrize(
    "word", ["Donaudampfschifffahrtsgesellschaftskapit\u00e4n" * 4, "\u7a7f\u7ea2\u8272", "caf\u00e9"]
)
@pytest.mark.parametrize("size", [(200, 10), (10, 200), (1, 1)])
def test_any_word_and_size_can_be_drawn(word, size):
    picture = explanation_image(made_up([word] * 14, np.linspace(0.1, 0.3, 14)), image(size=size))
    ink = (np.asarray(picture) < 100).all(axis=-1)
    assert not ink[:, -8:].any() and not ink[-8:].any() and picture.height < 1300


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_picture_is_saved(tmp_path, suffix):
    path = tmp_path / f"explanation{suffix}"
    picture = save_explanation_picture(made_up(["red", "coat"], [0.2, 0.1]), image(), path)
    with Image.open(path) as saved:
        assert saved.size == picture.size == (MARGIN + 3 * (TILE + MARGIN), picture.height)
        assert suffix != ".png" or np.array_equal(np.asarray(saved), np.asarray(picture))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    explanation, path = made_up(["red", "coat"], [0.2, 0.1]), tmp_path / "explanation.png"
    path.write_bytes(b"the last one")

    def fail(self, target, **kwargs):
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_explanation_picture(explanation, image(), path)
    assert path.read_bytes() == b"the last one" and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"explanation\.txt has no suffix of an image format"):
        save_explanation_picture(explanation, image(), tmp_path / "explanation.txt")
    with pytest.raises(OSError):
        save_explanation_picture(explanation, image(), tmp_path / "missing" / "explanation.png")
