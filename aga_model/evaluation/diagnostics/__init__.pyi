from .attention_picture import WIDTH, draw_word_attention
from .language import (
    BATCH_SIZE,
    MASKED_SHARE,
    Span,
    choose_words,
    enrichment_truth,
    mlm_accuracy,
    predict_hidden,
    tokenize_with_offsets,
    tokens_of_span,
    wrong_rows,
)
from .masking import Token, attribute_tokens, enrichment_examples, masked_attribute_share, masking_probabilities
from .probing import EnrichmentDraw, encode_image_files, enrich_once, undisturbed

__all__ = [
    "BATCH_SIZE",
    "MASKED_SHARE",
    "WIDTH",
    "EnrichmentDraw",
    "Span",
    "Token",
    "attribute_tokens",
    "choose_words",
    "draw_word_attention",
    "encode_image_files",
    "enrich_once",
    "enrichment_examples",
    "enrichment_truth",
    "masked_attribute_share",
    "masking_probabilities",
    "mlm_accuracy",
    "predict_hidden",
    "tokenize_with_offsets",
    "tokens_of_span",
    "undisturbed",
    "wrong_rows",
]
