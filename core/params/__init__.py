"""The options of each task: one model a task, the only place where they are named and described.

The command line, ``textmill tasks``, the Python function and the workers all read them from here.
"""

from textmill.core.params.base import OPENAI_COLUMN, Composition, TaskParams, TextParams, kinds_of
from textmill.core.params.classification import ClassificationParams
from textmill.core.params.embeddings import EmbeddingsParams
from textmill.core.params.generation import GenerationParams
from textmill.core.params.question_answering import QuestionAnsweringParams
from textmill.core.params.seq2seq import Seq2SeqParams
from textmill.core.params.summarization import SummarizationParams
from textmill.core.params.translation import TranslationParams
from textmill.core.params.zero_shot import ZeroShotParams

__all__ = [
    "OPENAI_COLUMN",
    "ClassificationParams",
    "Composition",
    "EmbeddingsParams",
    "GenerationParams",
    "QuestionAnsweringParams",
    "Seq2SeqParams",
    "SummarizationParams",
    "TaskParams",
    "TextParams",
    "TranslationParams",
    "ZeroShotParams",
    "kinds_of",
]
