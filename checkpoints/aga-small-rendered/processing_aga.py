"""Processor of AGA models: CLIP's image processing without a crop and a tokenizer with a mask token."""

from transformers import CLIPImageProcessorPil, CLIPTokenizer, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs
from transformers.tokenization_utils_base import PreTokenizedInput, TextInput

MASK_TOKEN = "<|mask|>"
# IRRA's place of the mask token: the last ordinary entry of CLIP's vocabulary, a rare word.
REPLACED_ENTRY = "jekyll</w>"


class AgaProcessorKwargs(ProcessingKwargs, total=False):
    # A caption is one segment: the models take no token types, which BERT's tokenizer would give.
    _defaults = {  # noqa: RUF012 - read by the library
        "text_kwargs": {"padding": True, "truncation": True, "return_token_type_ids": False}
    }


class AgaProcessor(ProcessorMixin):
    r"""
    Turns person crops and captions into model inputs.

    Captions are padded to the longest of the batch, which changes nothing in either family, and cut at the model's
    text length with the end token kept. ALBEF's and RaSa's image processing is CLIP's too.

    Args:
        image_processor ([`CLIPImageProcessorPil`]): resizes to the model's height x width without a crop.
        tokenizer ([`CLIPTokenizer`] or BERT's): with a mask token; see [`AgaProcessor.for_config`] and
            [`clip_tokenizer`].
    """

    valid_processor_kwargs = AgaProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        if tokenizer is not None and tokenizer.mask_token is None:
            raise ValueError("AgaProcessor needs a tokenizer with a mask token; see clip_tokenizer")
        super().__init__(image_processor, tokenizer)

    @property
    def unused_input_names(self) -> list[str]:
        """What BERT's tokenizer names among a model's inputs and these models do not take."""
        return ["token_type_ids"]

    def __call__(
        self,
        images: ImageInput | None = None,
        text: TextInput | PreTokenizedInput | list[TextInput] | list[PreTokenizedInput] | None = None,
        **kwargs,
    ):
        """
        Model inputs of captions, images or both; see transformers' [`ProcessorMixin`] for all that can be given.

        Args:
            images: one image or a list of them.
            text: a caption or a list of them. Any text is read, an empty one too.

        Raises:
            ValueError: an empty list, an image without pixels, or a caption that is no text (names it).
        """
        _check_images(images)
        _check_captions(text)
        return super().__call__(images=images, text=text, **kwargs)

    @classmethod
    def for_config(cls, config, tokenizer: PreTrainedTokenizerBase) -> "AgaProcessor":
        """
        The processor that fits a model's configuration.

        Raises:
            ValueError: the tokenizer's size or special tokens are not those of `config.text_config`.
        """
        text, settings = config.text_config, special_token_settings(tokenizer)
        # Not the unknown and the others, which the configurations of versions before 0.2 do not know.
        names = ("bos_token_id", "eos_token_id", "mask_token_id", "pad_token_id")
        pairs = {"vocab_size": (len(tokenizer), text.vocab_size)}
        for name, (have, want) in (pairs | {name: (settings[name], getattr(text, name)) for name in names}).items():
            if have != want:
                raise ValueError(f"text_config.{name} is {want}, the tokenizer's is {have}; they must agree")
        height, width = config.vision_config.image_height_width
        # The PIL backend works without torchvision; AgaProcessor may load the other one where it is installed.
        image_processor = CLIPImageProcessorPil(size={"height": height, "width": width}, do_center_crop=False)
        tokenizer.model_max_length = text.caption_length
        return cls(image_processor, tokenizer)


def _check_images(images) -> None:
    """Raise ValueError for images without pixels, of which the image processor would make some."""
    several = list(images) if isinstance(images, list | tuple) else [images]
    if not several:
        raise ValueError("no images: the list is empty")
    for position, image in enumerate(several):
        # Of a PIL image size is (width, height), of an array shape says more.
        shape = getattr(image, "shape", getattr(image, "size", None))
        if isinstance(shape, tuple) and 0 in shape:
            raise ValueError(f"image {position} has no pixels: its size is {tuple(shape)}")


def _check_captions(text) -> None:
    """Raise ValueError where the tokenizer's own error would not name what is wrong."""
    if text is None:
        return
    several = list(text) if isinstance(text, list | tuple) else [text]
    if not several:
        raise ValueError("no captions: the list is empty")
    for position, caption in enumerate(several):
        if not isinstance(caption, str | list | tuple):  # a list of words is a caption, too
            raise ValueError(f"caption {position} is no text but {type(caption).__name__}: give a string")
        try:
            if isinstance(caption, str):
                caption.encode("utf-8")
        except UnicodeEncodeError as error:
            broken = caption[error.start : error.end]
            raise ValueError(
                f"caption {position} is no text: {broken!r} at character {error.start} is half of a character"
            ) from error


def special_token_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | list[int] | None]:
    """The special tokens of a tokenizer as keys of a `text_config`, those that no key names among the others."""
    named = {
        "bos_token_id": _either(tokenizer.bos_token_id, tokenizer.cls_token_id),
        "eos_token_id": _either(tokenizer.eos_token_id, tokenizer.sep_token_id),
        "mask_token_id": tokenizer.mask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "unk_token_id": tokenizer.unk_token_id,
    }
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    others = (added | set(tokenizer.all_special_ids)) - set(named.values())
    return {**named, "other_special_token_ids": sorted(others)}


def _either(first: int | None, second: int | None) -> int | None:
    """BERT's tokenizers have no start and end of text, but [CLS] and [SEP]."""
    return second if first is None else first


def clip_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """
    CLIP's BPE tokenizer with IRRA's mask token, which takes the place of the rare word `jekyll` (id 49405).

    Args:
        vocab: CLIP's vocabulary (vocab.json).
        merges: CLIP's merges (merges.txt without its first line), in order.

    Raises:
        ValueError: `vocab` has neither the entry to replace nor a mask token.
    """
    if MASK_TOKEN not in vocab:
        if REPLACED_ENTRY not in vocab:
            raise ValueError(f"not CLIP's vocabulary: neither {REPLACED_ENTRY!r} nor {MASK_TOKEN!r} is in it")
        vocab = {(MASK_TOKEN if entry == REPLACED_ENTRY else entry): index for entry, index in vocab.items()}
        merges = [pair for pair in merges if "".join(pair) != REPLACED_ENTRY]
    return CLIPTokenizer(vocab=vocab, merges=merges, mask_token=MASK_TOKEN)


AgaProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["MASK_TOKEN", "AgaProcessor", "clip_tokenizer", "special_token_settings"]
