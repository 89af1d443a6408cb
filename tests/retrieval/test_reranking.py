"""Re-ranking scores against the model's own, pair by pair, whatever the batches, blocks and chunks; hits in order."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from aga_model import AgaConfig, AgaForImageTextRetrieval, AgaModel, AgaProcessor
from aga_model.errors import ModelLoadError
from aga_model.files import read_frame, read_image
from aga_model.gallery import Gallery, GalleryRow
from aga_model.search import PersonEncoder, Reranker, rerank_hits
from aga_model.search.reranking import _equal_groups

IMAGES = 9
CAPTIONS = [
    "a man",
    "a tall woman in a long red coat with a small black bag over her shoulder",
    "a girl in a yellow dress",
    "an old man with a grey hat and a walking stick who looks at his telephone",
    "bag",
    "a woman in white shoes",
    "a young man wearing a navy blue jacket and black trousers " * 4,  # longer than the models read
]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"image_size": [32, 16], "patch_size": 8, **TOWER}
# States are kept in half precision, which moves an entry by up to 2^-11 of itself; log-odds here reach 14.
TOLERANCE = {"atol": 5e-3, "rtol": 1e-3}
LENGTH = 24


def word_tokenizer():
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={word: index for index, word in enumerate(vocab)})


def build(kind, clip_tokenizer):
    """A model whose ITM head spreads its scores, with its processor."""
    common = {"vision_config": VISION, "projection_dim": 16, "objective_config": {"loss_weights": {"itm": 1.0}}}
    if kind == "bert":
        tokenizer = word_tokenizer()
        special = {"bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4, "pad_token_id": 0}
        text = {**TOWER, "vocab_size": len(tokenizer), "caption_length": LENGTH, **special}
        fusion = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = AgaConfig(family="bert", text_config=text, cross_modal_config=fusion, **common)
    else:
        tokenizer = clip_tokenizer
        text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
        fusion = {"num_hidden_layers": 1, "num_attention_heads": 2}
        fusion |= {"attended_padding_id": 0} if kind == "irra" else {"cross_attention_residual": True}
        config = AgaConfig(text_config=text, cross_modal_config=fusion, **common)
    torch.manual_seed(0)
    model = AgaForImageTextRetrieval(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter += 0.2 * torch.randn_like(parameter)
        model.itm_head.weight.normal_()
    return model, AgaProcessor.for_config(config, tokenizer)


@pytest.fixture(params=["clip", "irra", "bert"])
def pair(request, tokenizer):
    return build(request.param, tokenizer)


@pytest.fixture
def clip(tokenizer):
    return build("clip", tokenizer)


PIXELS = torch.randn(IMAGES, 3, 32, 16, generator=torch.Generator().manual_seed(3))


def random_candidates(seed=0, k=6):
    """Different numbers of captions for each image, and -1 here and there."""
    generator = np.random.default_rng(seed)
    rows = [generator.permutation(IMAGES)[:k] for _ in CAPTIONS]
    candidates = np.stack(rows)
    candidates[2, 1] = candidates[5, 0] = -1
    candidates[4, :] = -1
    return candidates


def pair_by_pair(model, processor, candidates):
    """`model.score` on one pair at a time, in float32 throughout."""
    wanted = np.full(candidates.shape, np.nan, dtype=np.float32)
    for (query, place), image in np.ndenumerate(candidates):
        if image >= 0:
            text = processor(text=[CAPTIONS[query]], return_tensors="pt")
            wanted[query, place] = model.score(PIXELS[image : image + 1], **text).item()
    return wanted


class Loader:
    """Gives pixels and remembers which images were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, images):
        self.asked.append(images)
        return PIXELS[images]


@pytest.mark.parametrize("batch_size", [1, 5, 128])
def test_scores_are_the_models_own_of_each_pair(pair, batch_size):
    model, processor = pair
    candidates = random_candidates()
    wanted = pair_by_pair(model, processor, candidates)
    assert np.nanstd(wanted) > 0.5
    got = Reranker(model, processor, batch_size=batch_size).score(CAPTIONS, Loader(), candidates, progress=False)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, **TOLERANCE)  # NaN where there is no candidate, in both


def test_half_precision_of_the_kept_states_is_all_that_differs(pair, monkeypatch):
    model, processor = pair
    candidates = random_candidates(2)
    monkeypatch.setattr(Reranker, "_kept_dtype", torch.float32)
    got = Reranker(model, processor, batch_size=16).score(CAPTIONS, Loader(), candidates, progress=False)
    np.testing.assert_allclose(got, pair_by_pair(model, processor, candidates), atol=5e-5, rtol=0)


def test_every_candidate_is_loaded_once_and_no_other(pair):
    model, processor = pair
    loader, candidates = Loader(), random_candidates(k=3)
    candidates[candidates == 7] = 2
    Reranker(model, processor, batch_size=8).score(CAPTIONS, loader, candidates, progress=False)
    asked = [image for images in loader.asked for image in images]
    assert sorted(asked) == sorted(set(candidates[candidates >= 0].tolist()))
    assert max(map(len, loader.asked)) == 2


def test_states_stay_within_the_memory(pair, monkeypatch):
    """Little memory makes blocks of captions and chunks of images, whose states fit, and the same scores."""
    model, processor = pair
    candidates = random_candidates(1)
    wanted = Reranker(model, processor).score(CAPTIONS, Loader(), candidates, progress=False)
    widest = 32 if model.config.family == "bert" else 16
    memory_bytes = 2 * 2 * widest * LENGTH  # half of it holds one caption of full length
    sizes, kept = {"images": [], "captions": []}, {"images": [], "captions": []}
    encode_images, encode_captions = Reranker._encode_images, Reranker._encode_captions

    def record(name, states):
        sizes[name].append(states.nbytes)
        kept[name].append(weakref.ref(states))

    def all_gone(name):
        return all(reference() is None for reference in kept[name])

    def record_images(self, *arguments):
        assert all_gone("images")
        states = encode_images(self, *arguments)
        record("images", states)
        return states

    def record_captions(self, *arguments):
        assert all_gone("images") and all_gone("captions")
        captions = encode_captions(self, *arguments)
        record("captions", captions.states)
        return captions

    monkeypatch.setattr(Reranker, "_encode_images", record_images)
    monkeypatch.setattr(Reranker, "_encode_captions", record_captions)
    loader = Loader()
    reranker = Reranker(model, processor, memory_mib=memory_bytes / 2**20)
    got = reranker.score(CAPTIONS, loader, candidates, progress=False)
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
    assert len(sizes["captions"]) > 2 and len(sizes["images"]) > len(sizes["captions"])
    assert max(sizes["captions"]) + max(sizes["images"]) <= memory_bytes
    assert sum(map(len, loader.asked)) > IMAGES  # images are encoded again for the next block


def test_memory_that_holds_nothing_is_an_error(clip):
    with pytest.raises(ValueError, match=r"memory_mib is 0\.001.*needs 0\.0015 MiB at least"):
        Reranker(*clip, memory_mib=0.001).score(CAPTIONS, Loader(), random_candidates(), progress=False)
    got = Reranker(*clip, memory_mib=0.0015).score(CAPTIONS, Loader(), random_candidates(), progress=False)
    np.testing.assert_allclose(got, pair_by_pair(*clip, random_candidates()), **TOLERANCE)


def test_the_model_is_left_as_it_was(pair):
    model, processor = pair
    reranker, candidates = Reranker(model, processor), random_candidates()
    wanted = reranker.score(CAPTIONS, Loader(), candidates, progress=False)
    model.train()  # BERT's dropout would show
    got = reranker.score(CAPTIONS, Loader(), candidates, progress=False)
    np.testing.assert_array_equal(got, wanted)
    assert model.training
    with pytest.raises(IndexError):
        reranker.score(CAPTIONS, Loader(), candidates + 100, progress=False)
    assert model.training


def test_half_precision_models_compute_in_their_own_type(clip):
    model, processor = clip
    candidates = random_candidates()
    wanted = pair_by_pair(model, processor, candidates)
    got = Reranker(model.to(torch.bfloat16), processor).score(CAPTIONS, Loader(), candidates, progress=False)
    np.testing.assert_allclose(got, wanted, atol=0.3)


def test_nothing_to_score(clip):
    empty = Reranker(*clip).score(CAPTIONS, Loader(), np.full((7, 2), -1), progress=False)
    assert empty.shape == (7, 2) and np.isnan(empty).all()
    assert Reranker(*clip).score([], Loader(), np.zeros((0, 3), int), progress=False).shape == (0, 3)


def test_bad_arguments_are_named(clip):
    model, processor = clip
    for arguments, named in (({"memory_mib": 0}, "memory_mib"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(ValueError, match=named):
            Reranker(model, processor, **arguments)
    reranker = Reranker(model, processor)
    for candidates in (np.zeros((6, 2), int), np.zeros(7, int), np.zeros((7, 2))):
        with pytest.raises(ValueError, match=r"expected integers \(7, k\)"):
            reranker.score(CAPTIONS, Loader(), candidates)
    with pytest.raises(ValueError, match="load_pixels gave 1 images for 8"):
        reranker.score(CAPTIONS, lambda images: PIXELS[:1], random_candidates(), progress=False)


def test_scores_that_are_not_finite_are_named(clip):
    model, processor = clip
    pixels = PIXELS.clone()
    pixels[5] = float("nan")
    candidates = np.array([[0, 1], [3, 5]] + [[2, 3]] * 5)
    with pytest.raises(ValueError, match=r"1 ITM scores are not finite, first: caption 'a tall woman.* image 5;"):
        Reranker(model, processor).score(CAPTIONS, lambda images: pixels[images], candidates, progress=False)


@pytest.mark.parametrize("largest", [[1] * 6, [4] * 6, [16] * 6, [1, 2, 16, 4, 8, 16]])
def test_groups_hold_every_pair_once(largest):
    counts, largest = np.array([1, 21, 16, 5, 40, 2]), np.array(largest)
    first = np.cumsum(counts) - counts
    seen, sizes = [], []
    for size, rows, starts in _equal_groups(first, counts, largest):
        sizes.append(size)
        assert (size <= largest[rows]).all()
        for row, start in zip(rows, starts):
            assert first[row] <= start and start + size <= first[row] + counts[row]
            seen += range(start, start + size)
    assert sorted(seen) == list(range(counts.sum()))
    assert sizes == [size for size in (16, 8, 4, 2, 1) if size <= largest.max()]


def test_more_captions_share_a_row_where_keys_and_values_cost_more(tokenizer):
    """IRRA's one cross-attention against BERT's in every layer; never more than a batch."""
    counts = np.arange(1, 5000)
    few, many = (
        Reranker(*build(kind, tokenizer), batch_size=32)._captions_in_a_row(counts, length=12.0)
        for kind in ("clip", "bert")
    )
    assert (few <= many).all() and few.sum() < many.sum() and many[-1] == 32
    assert Reranker(*build("bert", tokenizer), batch_size=1)._captions_in_a_row(counts, 12.0).max() == 1


def test_similarity_weight(clip):
    model, processor = clip
    log_odds, cosine = np.array([[1.0, -2.0]], dtype=np.float32), np.array([[0.5, 0.25]])
    alone = Reranker(model, processor, similarity_weight=0.0).combine(log_odds, cosine)
    assert np.array_equal(alone, [[1.0, -2.0]])
    with torch.no_grad():
        model.aga.logit_scale.fill_(np.log(1 / 0.05))
    got = Reranker(model, processor, similarity_weight=0.5).combine(log_odds, cosine)
    np.testing.assert_allclose(got, [[1.0 + 0.5 * 0.5 / 0.05, -2.0 + 0.5 * 0.25 / 0.05]], rtol=1e-6)


@pytest.fixture
def folder(clip, tmp_path):
    model, processor = clip
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_reranker_of_an_encoder_holds_the_dual_encoder_once(clip, folder):
    encoder = PersonEncoder.from_pretrained(folder, device="cpu")
    reranker = Reranker.from_encoder(encoder, memory_mib=3.0, batch_size=7)
    assert reranker.model.aga is encoder.model and (reranker.memory_mib, reranker.batch_size) == (3.0, 7)
    candidates = random_candidates()
    got = reranker.score(CAPTIONS, Loader(), candidates, progress=False)
    np.testing.assert_allclose(got, pair_by_pair(*clip, candidates), **TOLERANCE)


def test_models_that_cannot_rerank(clip, model_folder):
    encoder = PersonEncoder.from_pretrained(model_folder, device="cpu")
    with pytest.raises(ModelLoadError, match="does not name 'itm'"):
        Reranker.from_encoder(encoder)
    encoder.folder = None
    with pytest.raises(ModelLoadError, match="no saved AGA model"):
        Reranker.from_encoder(encoder)


def test_a_folder_without_the_weights_of_its_itm_head_is_refused(folder):
    """Its configuration names ITM; transformers would fill the head with random numbers."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("itm_head.")}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = PersonEncoder.from_pretrained(folder, device="cpu")
    with pytest.raises(ModelLoadError, match=r"lacks 2 weights, such as itm_head\.bias, itm_head\.weight"):
        Reranker.from_encoder(encoder)


def test_the_bert_familys_encoder_reads_its_caption_length(tokenizer):
    for kind in ("clip", "bert"):
        model, processor = build(kind, tokenizer)
        assert PersonEncoder(AgaModel(model.config), processor, kind, device="cpu").max_text_tokens == LENGTH


def test_hits_are_ordered_by_the_model_and_unreadable_ones_stay_behind(clip, folder, image_folder):
    model, processor = clip
    encoder = PersonEncoder.from_pretrained(folder, device="cpu")
    names = ["a.jpg", "b.png", "c.webp", "d.bmp", "[red]e.jpg", "camera 2/f.jpg"]
    paths = [str(image_folder / name) for name in names]
    gallery = Gallery.create(image_folder / "gallery", encoder.model_hash, encoder.dim, encoder.name)
    images = [read_image(path) for path in paths]
    rows = [GalleryRow(path, path, path, 20, 40, encoder.model_hash) for path in paths]
    gallery.add(encoder.encode_images(images), rows)
    query = "a girl in a yellow dress"
    hits = gallery.search(encoder.encode_texts([query]), 6)[0]
    text = processor(text=[query], return_tensors="pt")
    wanted = {}
    for path, image in zip(paths, images):
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        wanted[path] = model.score(pixels, **text).item()
    reranker = Reranker.from_encoder(encoder, batch_size=4, similarity_weight=0.0)

    found, skipped = rerank_hits(reranker, query, hits)
    assert [str(hit.path) for hit in found] == sorted(paths, key=lambda path: -wanted[path]) and skipped == []
    assert [hit.rank for hit in found] == [1, 2, 3, 4, 5, 6]
    for hit in found:
        assert hit.itm_score == pytest.approx(wanted[str(hit.path)], abs=TOLERANCE["atol"], rel=TOLERANCE["rtol"])
    assert {str(hit.path): hit.score for hit in found} == {str(hit.path): hit.score for hit in hits}

    gone = [str(hit.path) for hit in hits if str(hit.path) in (paths[1], paths[4])]
    (image_folder / "b.png").unlink()
    (image_folder / "[red]e.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    found, skipped = rerank_hits(reranker, query, hits)
    left = sorted(set(paths) - set(gone), key=lambda path: -wanted[path])
    assert [str(hit.path) for hit in found] == [*left, *gone]
    assert [hit.itm_score for hit in found[4:]] == [None, None] and [hit.rank for hit in found[4:]] == [5, 6]
    assert sorted(str(item.path) for item in skipped) == sorted(gone) and all(item.reason for item in skipped)
    for path in left:
        (image_folder / path).unlink()
    found, skipped = rerank_hits(reranker, query, hits)
    assert [hit.path for hit in found] == [hit.path for hit in hits] and len(skipped) == 6


def test_crops_that_were_not_saved_are_cut_out_and_reranked(clip, folder, tmp_path):
    """Of a photograph and of a video; when the video is gone, its crops stay behind."""
    from videos import numbered_video

    model, processor = clip
    encoder = PersonEncoder.from_pretrained(folder, device="cpu")
    video, scene = numbered_video(tmp_path / "hall.avi", 6), tmp_path / "scene.png"
    Image.effect_noise((160, 64), 80).convert("RGB").save(scene)
    boxes = [(0, 0, 80, 64), (80, 0, 160, 64), (40, 8, 100, 60)]
    crops = {(str(scene), None, box): read_image(scene).crop(box) for box in boxes}
    crops |= {(str(video), frame, boxes[1]): read_frame(video, frame).crop(boxes[1]) for frame in (0, 5)}
    facts = [
        GalleryRow(source, source, "", *image.size, encoder.model_hash, frame=frame, box=box)
        for (source, frame, box), image in crops.items()
    ]
    gallery = Gallery.create(tmp_path / "gallery", encoder.model_hash, encoder.dim, encoder.name)
    gallery.add(encoder.encode_images(list(crops.values())), facts)
    query = "a girl in a yellow dress"
    text = processor(text=[query], return_tensors="pt")
    wanted = {}
    for place, image in crops.items():
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        wanted[place] = model.score(pixels, **text).item()
    reranker = Reranker.from_encoder(encoder, batch_size=2, similarity_weight=0.0)
    hits = gallery.search(encoder.encode_texts([query]), 5)[0]

    def reranked():
        found, skipped = rerank_hits(reranker, query, hits)
        scores = {(hit.row.source, hit.row.frame, hit.row.box): hit.itm_score for hit in found}
        assert list(scores) == sorted(scores, key=lambda place: -(scores[place] or -1e9))
        return scores, skipped

    scores, skipped = reranked()
    assert skipped == []
    for place, score in scores.items():
        assert score == pytest.approx(wanted[place], abs=TOLERANCE["atol"], rel=TOLERANCE["rtol"])
    video.unlink()
    scores, skipped = reranked()
    assert {item.path for item in skipped} == {video} and list(scores.values())[3:] == [None, None]
    assert all(score is not None for score in list(scores.values())[:3])
