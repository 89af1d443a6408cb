"""
Where the words of a query look in an image, and how much each of them speaks for it.

A word's contribution to a pair is the similarity of the sentence with the image, less that of the sentence with the
word masked. Occlusion, the default, blanks one window of the image after the other and shows where the contribution
comes from. It asks for nothing but the score. The other method shows the fusion encoder's cross-attention.
`python -m benchmarks explanation` compares both, and more, with the true place of the clothes: docs/explain.md.
"""

import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from aga_model.errors import ModelLoadError
from aga_model.loading import read_model, require_weights
from aga_model.masking import ordinary_tokens
from aga_model.modeling_fusion import AgaFusionModel

from .encoder import TOKENIZING, PersonEncoder, QueryWarning

METHODS = ("occlusion", "cross_attention")
_DIVISIONS = 8, 4  # steps of a blank window down and across the image
_REACH = 2  # steps that a window covers in each direction
_JOINERS = "-'\u2019"  # belong to a word between two of its letters

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Explanation:
    """
    Where the words of a query look in an image.

    Attributes:
        query: the sentence.
        words: its words in order, as they stand there, without those behind the model's text length.
        spans: characters [start, end) of each word in the query.
        heat: float32 (words, rows, columns) on the patch grid, not negative. A word's heat sums to 1, or is zero
            everywhere where nothing in the image changes what the word does. By occlusion, the heat of a word with a
            negative contribution is where the image speaks against it.
        contributions: float32 (words,), by how much the cosine similarity falls when the word is masked. Negative: the
            image would fit better without the word.
        attention: float32 (words,), share of the text tower's class attention that the word gets (AGM reads the same);
            the rest up to 1 goes to punctuation.
        similarity: cosine of the sentence and the image, as a search gives it.
        itm_score: log-odds of the ITM head that the sentence describes the image; None without an ITM head.
        method: one of `METHODS`.
        image_box: edges of the image (left, top, right, bottom) on the patch grid, in patches, as [`image_on_grid`]
            gives them; None where the patches lie side by side and cover it, which is (0, 0, columns, rows).
    """

    query: str
    words: tuple[str, ...]
    spans: tuple[Span, ...]
    heat: np.ndarray
    contributions: np.ndarray
    attention: np.ndarray
    similarity: float
    itm_score: float | None
    method: str
    image_box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class WordTokens:
    """
    The words of a query as the model reads them.

    Args:
        input_ids, attention_mask: (1, seq).
        spans: characters [start, end) of each word.
        members: positions of each word's tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    spans: list[Span]
    members: list[list[int]]


class Explainer:
    """
    Shows where each word of a query looks in an image.

    ```python
    >>> explainer = Explainer.from_encoder(PersonEncoder.from_pretrained("runs/my_model"))
    >>> explanation = explainer.explain(read_image("someone.jpg"), "a woman in a red coat")
    >>> dict(zip(explanation.words, explanation.contributions))
    >>> save_explanation_picture(explanation, read_image("someone.jpg"), "explanation.png")
    ```

    - `occlusion` blanks windows of a quarter of the image's height and half of its width, one after the other in steps
      of half a window (45 images to encode at a grid of 8 x 4 patches or of its multiples). A patch's heat is the mean
      fall of the word's contribution over the windows that cover it. Source: Zeiler and Fergus (ECCV 2014), section
      4.2; the contribution of one word as the score is ours.
    - `cross_attention` is the attention that the word's tokens pay to the patches in the fusion encoder, mean over
      tokens, heads and, in the BERT family, layers, without the class patch's share.

    A call with `cross_attention` switches the fusion encoder's attention implementation for its duration: do not share
    the fusion model with another thread then.

    Args:
        encoder: the dual encoder, an AGA model.
        fusion_model: with the same dual encoder in it, such as `Reranker.model`; for ITM scores and `cross_attention`.
        method: one of `METHODS`.
        batch_size: images per forward pass.

    Raises:
        ValueError: no such method, or `cross_attention` without a fusion model.
    """

    def __init__(
        self,
        encoder: PersonEncoder,
        fusion_model: AgaFusionModel | None = None,
        method: str = "occlusion",
        batch_size: int = 32,
    ):
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
        if method == "cross_attention" and fusion_model is None:
            raise ValueError("the method 'cross_attention' needs a model with a fusion encoder; use 'occlusion'")
        self.encoder = encoder
        self.model: Any = encoder.model
        self.fusion_model: Any = fusion_model
        self.method = method
        self.batch_size = batch_size

    @classmethod
    def from_encoder(cls, encoder: PersonEncoder, method: str = "occlusion", batch_size: int = 32) -> "Explainer":
        """
        The explainer of an encoder that was loaded from a folder or the Hub, sharing its dual encoder's weights.

        A fusion encoder is used where the model's folder has a trained one.

        Raises:
            ModelLoadError: the encoder's model is no saved AGA model, its fusion encoder lacks weights, or there is
                none and the method needs it.
            ValueError: no such method.
        """
        if encoder.folder is None or getattr(encoder.model.config, "model_type", None) != "aga":
            raise ModelLoadError(f"model {encoder.name} cannot be explained: it is no saved AGA model")
        fusion_model = _load_fusion_model(encoder)
        if method == "cross_attention" and fusion_model is None:
            raise ModelLoadError(
                f"model {encoder.name} has no trained fusion encoder (one of the losses mlm and itm trains it), which "
                "the method 'cross_attention' needs; use 'occlusion'"
            )
        return cls(encoder, fusion_model, method, batch_size)

    def explain(self, image: Image.Image, query: str) -> Explanation:
        """
        Where each word of `query` looks in `image`.

        Args:
            image: RGB, of one person.
            query: the sentence. One that is longer than the model reads is cut, with a `TextTruncatedWarning`.

        Raises:
            ValueError: the query is empty, holds no word, is not valid Unicode, or its first word is longer than the
                model reads; or the model gives an embedding that is zero or not finite.
        """
        explanation, notes = self.explain_with_notes(image, query)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return explanation

    def explain_with_notes(self, image: Image.Image, query: str) -> tuple[Explanation, list[QueryWarning]]:
        """[`Explainer.explain`] with what it warns of, returned as [`PersonEncoder.encode_texts_with_notes`] does."""
        sentences, notes = self.encoder.encode_texts_with_notes([query])  # also checks the query
        tokens = read_words(self.encoder, query)
        pixels = self.encoder.preprocess([image])
        seen = self.encoder.encode_pixels(pixels)[0]
        with torch.inference_mode():
            directions, attention = word_directions(self.model, tokens)
            contributions = directions @ torch.from_numpy(seen)
            if self.method == "occlusion":
                heat = self._occlusion(pixels, directions, contributions)
            else:
                heat = self._cross_attention(tokens, pixels)
            itm_score = self._itm_score(tokens, pixels)
        explanation = Explanation(
            query=query,
            words=tuple(query[start:end] for start, end in tokens.spans),
            spans=tuple(tokens.spans),
            heat=_normalised(heat).numpy(),
            contributions=contributions.numpy(),
            attention=attention.numpy(),
            similarity=float(sentences[0] @ seen),
            itm_score=itm_score,
            method=self.method,
            image_box=image_on_grid(self.model.config.vision_config),
        )
        return explanation, notes

    # --- heat -----------------------------------------------------------------------------------------------------

    @property
    def _grid(self) -> tuple[int, int]:
        rows, columns = self.model.config.vision_config.grid_size
        return rows, columns

    def _occlusion(self, pixels: Tensor, directions: Tensor, contributions: Tensor) -> Tensor:
        """(words, rows, columns), not normalised; contributions (words,) are those in the whole image."""
        windows = occlusion_windows(self._grid)
        found = []
        for part in windows.split(self.batch_size):
            blanked = blank(pixels, part, self.model.config.vision_config)
            found.append(torch.from_numpy(self.encoder.encode_pixels(blanked)))
        falls = contributions[:, None] - directions @ torch.cat(found).T
        return occlusion_heat(falls * contributions.sign()[:, None], windows)

    def _cross_attention(self, tokens: WordTokens, pixels: Tensor) -> Tensor:
        """(words, rows, columns), not normalised."""
        states, mask, image_states = self._fusion_inputs(tokens, pixels)
        with recorded_cross_attention(self.fusion_model.fusion) as recorded:
            self.fusion_model.fusion(states, image_states, mask)
        weights = torch.stack(recorded).float().mean(dim=(0, 2))[0].cpu()  # (seq, patches + 1)
        rows = torch.stack([weights[members].mean(dim=0) for members in tokens.members])
        return rows[:, 1:].reshape(-1, *self._grid)

    # --- the fusion encoder ---------------------------------------------------------------------------------------

    def _fusion_inputs(self, tokens: WordTokens, pixels: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Token states (1, seq, dim), their mask and patch states (1, patches + 1, dim)."""
        states, mask = self.fusion_model.caption_states(tokens.input_ids, tokens.attention_mask)
        vision = self.model.get_image_features(pixels.to(self.encoder.device))
        return states, mask, self.model.fusion_image_states(vision)

    def _itm_score(self, tokens: WordTokens, pixels: Tensor) -> float | None:
        if self.fusion_model is None or self.fusion_model.itm_head is None:
            return None
        states, mask, image_states = self._fusion_inputs(tokens, pixels)
        summary = self.model.text_model.pooled_positions(tokens.input_ids)
        logits = self.fusion_model.match_logits(states, mask, summary, image_states).float()
        return float(logits[0, 1] - logits[0, 0])


def word_spans(text: str) -> list[Span]:
    """Characters [start, end) of a text's words: letters, their marks and digits, hyphens and apostrophes inside."""
    kinds = "".join(
        "w" if unicodedata.category(character)[0] in "LMN" else "-" if character in _JOINERS else " "
        for character in text
    )
    return [match.span() for match in re.finditer("w+(?:-w+)*", kinds)]


def read_words(encoder: PersonEncoder, query: str) -> WordTokens:
    """
    The words of a query and the tokens that each of them is made of.

    Raises:
        ValueError: no word lies within the model's text length.
    """
    with TOKENIZING:
        inputs = encoder.processor.tokenizer(
            [query],
            truncation=True,
            max_length=encoder.max_text_tokens,
            return_offsets_mapping=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    config: Any = encoder.model.config
    text = config.text_config
    ordinary = ordinary_tokens(ids, mask, text)[0]
    unknown = getattr(text, "unk_token_id", None)
    if unknown not in (None, text.eos_token_id):
        # AGM masks no word that the vocabulary lacks, but it is one of the sentence all the same.
        ordinary = ordinary | (ids[0] == unknown)
    offsets = inputs["offset_mapping"][0].tolist()
    spans, members = [], []
    for start, end in word_spans(query):
        found = [
            token for token, (first, last) in enumerate(offsets) if ordinary[token] and first < end and last > start
        ]
        if found and offsets[found[-1]][1] >= end:  # not cut at the model's text length
            spans.append((start, end))
            members.append(found)
    if not spans:
        raise ValueError(
            f"the model reads {encoder.max_text_tokens} tokens and finds no whole word in them: use a query of "
            "shorter words"
        )
    return WordTokens(ids.to(encoder.device), mask.to(encoder.device), spans, members)


def word_directions(model: Any, tokens: WordTokens) -> tuple[Tensor, Tensor]:
    """
    What each word adds to the sentence's embedding, and the class attention that it gets.

    Args:
        model: AgaModel.

    Returns:
        float32 (words, dim), the sentence's unit vector less that of the sentence with the word masked; an image's
        unit vector times it is the word's contribution. And float32 (words,). Both on the CPU.
    """
    ids = tokens.input_ids.repeat(1 + len(tokens.spans), 1)
    for row, members in enumerate(tokens.members, start=1):
        ids[row, members] = model.config.text_config.mask_token_id
    outputs, attention = model.get_text_features_with_attention(ids, tokens.attention_mask.expand_as(ids))
    rows = nn.functional.normalize(outputs.pooler_output.float(), dim=-1).cpu()
    shares = torch.stack([attention[0, members].sum() for members in tokens.members])
    return rows[:1] - rows[1:], shares.float().cpu()


def occlusion_windows(grid: tuple[int, int], reach: int = _REACH) -> Tensor:
    """
    Windows that move over a grid of patches in about 8 steps down and 4 across, cut where they run out of it.

    Args:
        grid: rows and columns.
        reach: steps that a window covers in each direction.

    Returns:
        bool (windows, rows, columns), True inside the window; reach * reach windows cover each patch.
    """
    axes = []
    for size, divisions in zip(grid, _DIVISIONS):
        step = max(1, round(size / divisions))
        starts = torch.arange((1 - reach) * step, size, step)[:, None]
        places = torch.arange(size)[None]
        axes.append((places >= starts) & (places < starts + reach * step))
    rows, columns = axes
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def image_on_grid(vision_config: Any) -> tuple[float, float, float, float]:
    """
    Edges of the image (left, top, right, bottom) on the patch grid, in patches.

    A patch's cell is as wide as the stride and lies around the patch's centre. Where patches overlap, or leave pixels
    over behind the last one, the cells do not fill the image.
    """
    height, width = vision_config.image_height_width
    stride = vision_config.stride
    first = (vision_config.patch_size - stride) / 2  # pixels in front of the first cell
    return -first / stride, -first / stride, (width - first) / stride, (height - first) / stride


def blank(pixels: Tensor, windows: Tensor, vision_config: Any) -> Tensor:
    """
    The image with each window filled by the mean colour that its processor subtracts.

    Args:
        pixels: (1, channels, height, width), preprocessed.
        windows: bool (windows, rows, columns).
        vision_config: of the model; a pixel belongs to the patch whose centre is nearest.

    Returns:
        (windows, channels, height, width).
    """
    patch, stride = vision_config.patch_size, vision_config.stride
    places = []
    for side, count in zip(pixels.shape[-2:], windows.shape[1:]):
        half_pixels = 2 * torch.arange(side) + 1 - (patch - stride)  # from the first cell to a pixel's centre
        places.append((half_pixels // (2 * stride)).clamp(0, count - 1))
    filled = windows[:, places[0]][:, :, places[1]]
    return pixels.masked_fill(filled[:, None].to(pixels.device), 0.0)


def occlusion_heat(falls: Tensor, windows: Tensor) -> Tensor:
    """
    Mean over the windows that cover a patch, and zero where it is negative.

    Args:
        falls: (words, windows), by how much a word's score falls with the window.
        windows: bool (windows, rows, columns).

    Returns:
        (words, rows, columns).
    """
    covers = windows.to(falls.dtype)
    return (torch.einsum("wn,nrc->wrc", falls, covers) / covers.sum(dim=0)).clamp(min=0)


@contextmanager
def recorded_cross_attention(fusion: Any) -> Iterator[list[Tensor]]:
    """
    Records the attention weights of a fusion encoder's cross-attentions, layer by layer, while it runs.

    The weights are those that transformers' own eager attention multiplies the values by, with their gradient; SDPA
    keeps none. Afterwards the implementation is what it was.

    Yields:
        a list that fills with (images, heads, texts/images * seq, patches + 1), class patch first, one per
        cross-attention.
    """
    recorded: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        recorded.append(output[1])

    implementation = fusion.config._attn_implementation
    hooks = [module.register_forward_hook(record) for module in fusion.cross_attentions]
    fusion.set_attn_implementation("eager")
    try:
        yield recorded
    finally:
        fusion.set_attn_implementation(implementation)
        for hook in hooks:
            hook.remove()


def _normalised(heat: Tensor) -> Tensor:
    """Each word's heat (words, rows, columns) divided by its sum; zero stays zero."""
    total = heat.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, heat / total.clamp(min=torch.finfo(heat.dtype).tiny), 0.0)


class _FusionModel(AgaFusionModel):
    """The dual encoder with its fusion encoder and, where it was trained, the ITM head; of any pre-training."""

    _keys_to_ignore_on_load_unexpected = [r"^mlm_head\.", r"^identity_head\."]  # noqa: RUF012 - read by the library

    def __init__(self, config):
        super().__init__(config)
        self.post_init()


def _load_fusion_model(encoder: PersonEncoder) -> Any | None:
    """The fusion model in the encoder's folder, around the encoder's own model; None where there is no trained one."""
    config: Any = encoder.model.config
    if not config.has_itm_head and not config.has_mlm_head:
        return None
    assert encoder.folder is not None
    model: Any
    model, missing = read_model(_FusionModel, encoder.folder, encoder.name)
    if {f"fusion.{name}" for name in model.fusion.state_dict()} <= set(missing):  # saved as the dual encoder alone
        return None
    require_weights(missing, encoder.name)
    model.aga = encoder.model  # the same weights, not twice in memory
    return model.to(encoder.device).eval()
