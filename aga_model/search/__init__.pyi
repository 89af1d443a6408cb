from .answering import Ranking, answer_image, answer_sentence
from .encoder import PersonEncoder, QueryWarning, TextTruncatedWarning, UnknownWritingWarning
from .explanation import Explainer, Explanation
from .explanation_picture import explanation_image, save_explanation_picture
from .picture import COLUMNS, save_picture, save_result_picture, stack_pictures
from .reranking import Reranker, rerank_hits
from .results import COLLAPSES, Answer, collapse, hit_values, with_faces_hidden, write_csv, write_page

__all__ = [
    "COLLAPSES",
    "COLUMNS",
    "Answer",
    "Explainer",
    "Explanation",
    "PersonEncoder",
    "QueryWarning",
    "Ranking",
    "Reranker",
    "TextTruncatedWarning",
    "UnknownWritingWarning",
    "answer_image",
    "answer_sentence",
    "collapse",
    "explanation_image",
    "hit_values",
    "rerank_hits",
    "save_explanation_picture",
    "save_picture",
    "save_result_picture",
    "stack_pictures",
    "with_faces_hidden",
    "write_csv",
    "write_page",
]
