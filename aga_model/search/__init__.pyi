from .answering import SearchOptions, answer, answer_all, answer_image, answer_sentence, answer_sentences
from .encoder import PersonEncoder
from .explanation import Explainer, Explanation
from .explanation_picture import explanation_image, save_explanation_picture
from .picture import COLUMNS, save_picture, save_result_picture, stack_pictures
from .query import ImageTerm, Query, Term, TextEncoder, TextTerm, embed_queries
from .reranking import Reranker, rerank_hits
from .results import COLLAPSES, Answer, collapse, hit_values, with_faces_hidden, write_csv, write_page
from .sentences import QueryWarning, TextTruncatedWarning, UnknownWritingWarning, unknown_letters
from .text_encoder import (
    TEXT_ENCODER,
    TEXT_ENCODER_FORMAT,
    TEXT_GRAPH_FILE,
    TEXT_INFO_FILE,
    TEXT_TOKENIZER_FILE,
    OnnxTextEncoder,
)

__all__ = [
    "COLLAPSES",
    "COLUMNS",
    "TEXT_ENCODER",
    "TEXT_ENCODER_FORMAT",
    "TEXT_GRAPH_FILE",
    "TEXT_INFO_FILE",
    "TEXT_TOKENIZER_FILE",
    "Answer",
    "Explainer",
    "Explanation",
    "ImageTerm",
    "OnnxTextEncoder",
    "PersonEncoder",
    "Query",
    "QueryWarning",
    "Reranker",
    "SearchOptions",
    "Term",
    "TextEncoder",
    "TextTerm",
    "TextTruncatedWarning",
    "UnknownWritingWarning",
    "answer",
    "answer_all",
    "answer_image",
    "answer_sentence",
    "answer_sentences",
    "collapse",
    "embed_queries",
    "explanation_image",
    "hit_values",
    "rerank_hits",
    "save_explanation_picture",
    "save_picture",
    "save_result_picture",
    "stack_pictures",
    "unknown_letters",
    "with_faces_hidden",
    "write_csv",
    "write_page",
]
