"""Question answering with tiny random models: spans, windows, parameters, error rows.

Outputs are held against a plain decoding written here: one record at a time, transformers' own
windows, every span tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from textmill.core.errors import InvalidJobError, ModelLoadError, RecordError
from textmill.core.jobs import Record
from textmill.core.params import QuestionAnsweringParams
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners.question_answering import QuestionAnsweringRunner
from textmill.workers.tasks import gather_outcome

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["who", "where", "won", "the", "game", "in", "paris", "team", "red", "blue", "and", "."]
PIECES = ["##s", "##ly", "##ning", "win", "e", "é", "שלום", "מה", "?"]
LIMIT = 48
WINDOW, STRIDE = 24, 8
QUESTIONS = ["who won", "where", "the red team won the game ?", "who and where and who"]
CONTEXTS = [
    "the red team won the game in paris .",
    "blue",
    "winning wins and winly in paris . " * 4,
    " ".join(WORDS[(7 * n) % 12] + " " + WORDS[(5 * n) % 11] for n in range(60)),
]
HOSTILE = [
    "  \t the red team\r\nwon 😀 the 👩‍👩‍👧 game\r\n in paris  ",
    "e\u0301 won e\u0301e\u0301 the game\u0301 in paris\u0301",
    "שלום מה won שָׁלוֹם the game \u202eparis\u202c blue",
    "\u2029the\u00a0red\u200bteam\ufeffwon 𝔱𝔥𝔢 game 🇫🇷 paris",
    "the<b>red</b>team…won—the\u0000game",
]

Found = list[Output | RecordError]
Ask = Callable[..., Found]


def save_model(
    folder: Path, kind: str = "BertForQuestionAnswering", post: Any = None, scale: float = 0.7
) -> Path:
    """A random model of two layers, with its tokenizer."""
    torch.manual_seed(11)
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS + PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = post or processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # Published tokenizers carry the padding and truncation they were trained with.
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=12)
    tokenizer.enable_truncation(8)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LIMIT,
        initializer_range=scale,
    )
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("qa") / "model")


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[tuple[Path, int], Engine]]:
    opened: dict[tuple[Path, int], Engine] = {}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.fixture
def ask(engines: dict[tuple[Path, int], Engine], model: Path) -> Ask:
    """Answers of an engine; a record is a pair of question and context, or a Record."""

    def run(records: list[Any], tokens: int = 1024, model: Path = model, **params: Any) -> Found:
        if (model, tokens) not in engines:
            request = ModelRequest("question-answering", str(model), device="cpu")
            engines[model, tokens] = Engine(lambda: load_runner(request), max_batch_tokens=tokens)
        given = [
            one if isinstance(one, Record) else _record(n, *one) for n, one in enumerate(records)
        ]
        return engines[model, tokens].submit(given, _params(**params)).wait(60)

    return run


def _record(index: int, question: Any, context: Any) -> Record:
    return Record(index, str(index), {"question": question, "context": context})


def _params(**given: Any) -> QuestionAnsweringParams:
    params = validate_params(get_task("question-answering"), given)
    assert isinstance(params, QuestionAnsweringParams)
    return params


def as_output(found: Output | RecordError) -> Output:
    assert isinstance(found, Output), found
    return found


def as_error(found: Output | RecordError) -> RecordError:
    assert isinstance(found, RecordError), found
    return found


def detail(found: Output | RecordError) -> dict[str, Any]:
    output = as_output(found)
    assert output.detail is not None
    return output.detail


class Reference:
    """The plain way: one forward pass a window, every span of every window in turn."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()

    def answers(
        self, question: str, context: str, window: int, stride: int, most: int, words: bool
    ) -> list[tuple[float, int, int, float]]:
        """Score, start, end and summed logits of every span, best first."""
        found: dict[tuple[int, int], tuple[float, float]] = {}
        for _, _, spans in self._windows(question, context, window, stride, most, words):
            for place, scores in spans.items():
                found[place] = max(scores, found.get(place, (0.0, 0.0)))
        return sorted(((s, *place, logit) for place, (s, logit) in found.items()), reverse=True)

    def null(self, question: str, context: str, window: int, stride: int) -> tuple[float, float]:
        """The smallest logit and the smallest probability of [CLS] in any window."""
        windows = list(self._windows(question, context, window, stride, 30, False))
        return min(w[0] for w in windows), min(w[1] for w in windows)

    def _windows(
        self, question: str, context: str, window: int, stride: int, most: int, words: bool
    ) -> Iterator[tuple[float, float, dict[tuple[int, int], tuple[float, float]]]]:
        encoded = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=window,
            stride=stride,
            padding=False,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for n, offsets in enumerate(encoded["offset_mapping"]):
            names = ("input_ids", "token_type_ids", "attention_mask")
            with torch.inference_mode():
                logits = self.model(**{name: torch.tensor([encoded[name][n]]) for name in names})
            sides = encoded.sequence_ids(n)
            kept = torch.tensor([at == 0 or side == 1 for at, side in enumerate(sides)])
            start = logits.start_logits[0].masked_fill(~kept, -1e9).softmax(0).tolist()
            end = logits.end_logits[0].masked_fill(~kept, -1e9).softmax(0).tolist()
            inside = [at for at, side in enumerate(sides) if side == 1]
            spans: dict[tuple[int, int], tuple[float, float]] = {}
            for first in inside:
                for last in range(first, min(first + most, inside[-1] + 1)):
                    place = offsets[first][0], offsets[last][1]
                    if words:
                        encoding = encoded.encodings[n]
                        place = (
                            encoding.word_to_chars(encoding.token_to_word(first), 1)[0],
                            encoding.word_to_chars(encoding.token_to_word(last), 1)[1],
                        )
                    logit = float(logits.start_logits[0, first] + logits.end_logits[0, last])
                    scores = start[first] * end[last], logit
                    spans[place] = max(scores, spans.get(place, (0.0, 0.0)))
            null = float(logits.start_logits[0, 0] + logits.end_logits[0, 0])
            yield null, start[0] * end[0], spans


@pytest.fixture(scope="module")
def reference(model: Path) -> Reference:
    return Reference(model)


PAIRS = [(question, context) for question in QUESTIONS for context in CONTEXTS]


# -- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 100, 4096], ids=["alone", "few", "together"])
@pytest.mark.parametrize("words", [True, False], ids=["words", "tokens"])
def test_answers_equal_those_found_one_by_one(
    ask: Ask, reference: Reference, tokens: int, words: bool
) -> None:
    """Given questions whose contexts take one to many windows, in batches of any size."""
    options = {"window": WINDOW, "stride": STRIDE, "max_answer_tokens": 5, "whole_words": words}
    found = ask(PAIRS, tokens, **options)
    starts = set()
    for (question, context), answer in zip(PAIRS, found, strict=True):
        score, start, end, _ = reference.answers(question, context, WINDOW, STRIDE, 5, words)[0]
        output = as_output(answer)
        assert (detail(output)["start"], detail(output)["end"]) == (start, end)
        assert output.score == pytest.approx(score, abs=1e-4)
        assert output.output == context[start:end]
        assert detail(output)["question"] == question
        assert (output.label, list(output.labels)) == (None, [])
        starts.add(start)
    assert len(starts) > 4, "a model that always points at the same place"


def test_a_long_context_is_read_in_windows_that_are_counted(ask: Ask) -> None:
    (found,) = ask([("who won", CONTEXTS[3])], window=WINDOW, stride=STRIDE)
    assert detail(found)["windows"] == 11  # the first, and (120 - 19) / (19 - 8) rounded up
    assert as_output(found).input_tokens == 120 + 10 * STRIDE + 11 * 5
    assert "windows" not in detail(ask([("who", "blue")], window=WINDOW)[0])


def test_windows_of_several_contexts_share_batches(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[set[int]] = []
    forward = QuestionAnsweringRunner.forward

    def watched(runner: QuestionAnsweringRunner, items: Any) -> Any:
        sizes.append({id(item.data.context) for item in items})
        return forward(runner, items)

    monkeypatch.setattr(QuestionAnsweringRunner, "forward", watched)
    request = ModelRequest("question-answering", str(model), device="cpu")
    engine = Engine(lambda: load_runner(request), max_batch_tokens=4096)
    contexts = [CONTEXTS[3], CONTEXTS[3] + " ."]
    records = [_record(n, "who won", context) for n, context in enumerate(contexts)]
    engine.submit(records, _params(window=WINDOW, stride=STRIDE)).wait(60)
    engine.close()
    assert max(map(len, sizes)) == 2


@pytest.mark.parametrize("context", HOSTILE, ids=["crlf", "marks", "hebrew", "spaces", "markup"])
@pytest.mark.parametrize("words", [True, False], ids=["words", "tokens"])
def test_spans_are_exact_in_any_text(ask: Ask, context: str, words: bool) -> None:
    options = {"whole_words": words, "top_k": 20, "window": WINDOW, "stride": 4}
    for question in (*QUESTIONS, "מה 😀 ?"):
        (found,) = ask([(question, context)], **options)
        answers = detail(found)["answers"]
        assert as_output(found).output == answers[0]["answer"]
        assert len({(a["start"], a["end"]) for a in answers}) == len(answers) > 3
        for answer in answers:
            assert context[answer["start"] : answer["end"]] == answer["answer"]
            assert answer["answer"]
            assert answer["answer"] == answer["answer"].strip()


def test_an_answer_keeps_its_last_letters_marks(ask: Ask) -> None:
    """BERT's normalizer drops the accent, so the token ends before it."""
    (found,) = ask([("who", "e\u0301")])
    assert as_output(found).output == "e\u0301"
    assert detail(found)["end"] == 2


def test_whole_words_are_not_cut(ask: Ask) -> None:
    context = "winning wins winly"
    found = ask([(question, context) for question in QUESTIONS], top_k=20)
    words = {answer["answer"] for one in found for answer in detail(one)["answers"]}
    assert words <= {"winning", "wins", "winly", "winning wins", "wins winly", context}
    cut = ask([(question, context) for question in QUESTIONS], top_k=20, whole_words=False)
    assert {a["answer"] for one in cut for a in detail(one)["answers"]} - words


def test_top_k_gives_the_best_answers_in_order(ask: Ask, reference: Reference) -> None:
    question, context = PAIRS[2]
    options = {"window": WINDOW, "stride": STRIDE, "max_answer_tokens": 4}
    (found,) = ask([(question, context)], top_k=4, **options)
    expected = reference.answers(question, context, WINDOW, STRIDE, 4, True)[:4]
    answers = detail(found)["answers"]
    assert [(a["start"], a["end"]) for a in answers] == [(e[1], e[2]) for e in expected]
    assert [a["score"] for a in answers] == pytest.approx([e[0] for e in expected], abs=1e-4)
    assert "answers" not in detail(ask([(question, context)], **options)[0])


def test_an_answer_has_at_most_so_many_tokens(ask: Ask) -> None:
    for most in (1, 3):
        found = ask(PAIRS, max_answer_tokens=most, whole_words=False, top_k=5)
        lengths = [
            len(a["answer"].replace(".", " .").split()) for f in found for a in detail(f)["answers"]
        ]
        assert max(lengths) == most


# -- no answer -------------------------------------------------------------------------------


def test_no_answer_is_given_over_the_threshold(ask: Ask, reference: Reference) -> None:
    options: dict[str, Any] = {"window": WINDOW, "stride": STRIDE, "no_answer": True}
    found = [detail(one) for one in ask(PAIRS, **options)]
    margins = [one["no_answer_margin"] for one in found]
    assert [one["no_answer"] for one in found] == [margin > 0 for margin in margins]
    for (question, context), margin in zip(PAIRS, margins, strict=True):
        (low,) = ask([(question, context)], no_answer_threshold=margin - 0.01, **options)
        (high,) = ask([(question, context)], no_answer_threshold=margin + 0.01, **options)
        assert (as_output(low).output, detail(low)["start"], detail(low)["end"]) == ("", 0, 0)
        assert as_output(high).output != ""
        assert (detail(low)["no_answer"], detail(high)["no_answer"]) == (True, False)
        logit, probability = reference.null(question, context, WINDOW, STRIDE)
        assert as_output(low).score == pytest.approx(probability, abs=1e-4)
        best = reference.answers(question, context, WINDOW, STRIDE, 30, True)[0]
        assert margin == pytest.approx(logit - best[3], abs=1e-3)
    assert {one["no_answer"] for one in found} == {True, False}, "a model that never doubts"
    assert "no_answer" not in detail(ask(PAIRS[:1])[0])


# -- parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "fields", "text"),
    [
        ({}, ("question", "context"), "context"),
        ({"question": "who"}, ("context",), "context"),
        ({"context": "blue"}, ("question",), "question"),
    ],
)
def test_what_is_fixed_is_not_read_from_records(
    given: dict[str, str], fields: tuple[str, ...], text: str
) -> None:
    params = _params(**given)
    assert params.fields() == fields
    assert params.text_field() == text


def test_a_fixed_side_is_the_same_as_a_column(ask: Ask) -> None:
    question, context = PAIRS[2]
    (expected,) = ask([(question, context)])
    (one,) = ask([Record(0, "0", {"context": context})], question=question)
    (two,) = ask([Record(0, "0", {"question": question})], context=context)
    assert one == two == expected


def test_a_row_keeps_the_context_or_with_a_fixed_one_the_question(ask: Ask) -> None:
    question, context = PAIRS[0]
    records = [_record(0, question, context), _record(1, question, "\x00 ")]
    outcome = gather_outcome(records, ask(list(records)), _params().text_field())
    assert [row.text for row in outcome.rows] == [context, "\x00 "]
    assert outcome.rows[1].error_code == "empty_text"
    assert outcome.labels == {}
    fixed = _params(context=context)
    record = Record(0, "0", {"question": question})
    found = ask([record], context=context)
    assert gather_outcome([record], found, fixed.text_field()).rows[0].text == question


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"question": "a", "context": "b"}, "both fixed"),
        ({"question": " "}, "option 'question' .* is ' ': expected a text that is not empty"),
        ({"stride": 20, "window": 16}, "stride 20 is no less than window 16"),
        ({"stride": 384}, "stride 384 is no less than window 384"),
        ({"no_answer_threshold": 1.0}, "counts only with no_answer"),
        ({"on_long": "cut"}, "'windows', 'truncate' or 'error'"),
        ({"max_answer_token": 3}, "did you mean 'max_answer_tokens'"),
        ({"context": "x" * 1_000_001}, "at most 1000000 characters"),
    ],
)
def test_wrong_options_are_named_at_submit(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJobError, match=message) as caught:
        _params(**given)
    assert len(str(caught.value)) < 400


def test_a_records_own_parameters_win(ask: Ask) -> None:
    question, context = PAIRS[2]
    inputs = {"question": question, "context": context}
    found = ask(
        [
            Record(0, "0", inputs),
            Record(1, "1", inputs, {"top_k": 3}),
            Record(2, "2", inputs, {"question": "where"}),
            Record(3, "3", inputs, {"max_answer_tokens": 1}),
            Record(4, "4", inputs, {"topk": 3}),
        ],
        whole_words=False,
    )
    assert len(detail(found[1])["answers"]) == 3
    assert detail(found[2])["question"] == "where"
    assert found[3] == ask([(question, context)], max_answer_tokens=1, whole_words=False)[0]
    assert as_error(found[4]).code == "invalid_params"
    assert "did you mean 'top_k'" in as_error(found[4]).message


# -- rows that cannot be answered ------------------------------------------------------------


def test_a_bad_record_costs_one_row(ask: Ask) -> None:
    found = ask(
        [
            ("who", "the game"),
            ("who", None),
            (3, "the game"),
            ("", "the game"),
            ("who", " \r\n"),
            ("who", "a \ud800"),
            Record(6, "6", {"context": "the game"}),
            ("who", "the game"),
        ]
    )
    codes = [one.code if isinstance(one, RecordError) else "" for one in found]
    assert codes == ["", *["invalid_input"] * 2, *["empty_text"] * 2, *["invalid_input"] * 2, ""]
    assert as_error(found[2]).message == "'question' is 3, expected a text"
    assert as_error(found[4]).message == "the context has no tokens"
    assert as_error(found[5]).message == "'context' has half a surrogate pair at character 2"
    assert as_error(found[6]).message == "'question' is None, expected a text"
    assert found[0] == found[7]


def test_a_question_that_fills_the_window_is_an_error_row(ask: Ask) -> None:
    full, fitting = ask([("who " * 45, "the game"), ("who " * 44, "game")])
    assert as_error(full).code == "question_too_long"
    assert "45 tokens and leaves 0 of a window of 48" in as_error(full).message
    assert as_output(fitting).output == "game"
    (shared,) = ask([("who " * 15, CONTEXTS[3])], window=WINDOW, stride=STRIDE)
    assert as_error(shared).code == "question_too_long"
    assert "leaves 6 of a window of 24 to the context, expected more than 8 (stride)" in str(shared)
    assert str(shared).endswith("; ask for a larger window")
    assert str(full).endswith("; the model reads no larger window")


def test_on_long_says_what_becomes_of_a_long_context(ask: Ask) -> None:
    short, long = ("who", "the game"), ("who", CONTEXTS[3])
    found = ask([short, long], window=WINDOW, on_long="error")
    assert as_output(found[0])
    assert as_error(found[1]).code == "context_too_long"
    assert as_error(found[1]).message == "the context has 120 tokens, the question leaves 20 of 24"
    (cut,) = ask([long], window=WINDOW, on_long="truncate")
    assert (detail(cut)["truncated"], detail(cut)["tokens"]) == (True, 120)
    (same,) = ask([("who", " ".join(CONTEXTS[3].split()[:20]))], window=WINDOW)
    assert (as_output(cut).output, as_output(cut).score) == (
        as_output(same).output,
        as_output(same).score,
    )
    assert "truncated" not in detail(same)
    (many,) = ask([long], window=WINDOW, stride=10, max_windows=10)
    assert "the context takes 11 windows, and max_windows is 10" in as_error(many).message


def test_scores_that_are_no_numbers_cost_one_row(model: Path) -> None:
    request = ModelRequest("question-answering", str(model), device="cpu", dtype="fp32")
    runner = QuestionAnsweringRunner.load(request)
    with torch.no_grad():
        word = runner._model.get_input_embeddings().weight
        word[len(SPECIAL) + WORDS.index("red")] = float("nan")
    records = [_record(0, "who", "the red game"), _record(1, "who", "the game")]
    prepared = runner.prepare(records, _params())
    items = [item for own in prepared if isinstance(own, list) for item in own]
    raw = runner.forward(items)
    with pytest.raises(RecordError) as caught:
        runner.join(records[0], items[:1], raw[:1], _params())
    assert caught.value.code == "not_finite"
    assert runner.join(records[1], items[1:], raw[1:], _params()).output


# -- models ----------------------------------------------------------------------------------


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "BertForSequenceClassification")
    with pytest.raises(ModelLoadError, match="expected one that ends in ForQuestionAnswering"):
        load_runner(ModelRequest("question-answering", str(folder), device="cpu"))


def test_a_tokenizer_that_puts_the_context_first_is_refused(tmp_path: Path) -> None:
    post = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $B [SEP] $A:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    folder = save_model(tmp_path / "model", post=post)
    with pytest.raises(ModelLoadError, match="does not put two texts one after the other"):
        load_runner(ModelRequest("question-answering", str(folder), device="cpu"))


def test_a_records_windows_overlap_by_the_stride(model: Path) -> None:
    runner = QuestionAnsweringRunner.load(
        ModelRequest("question-answering", str(model), device="cpu")
    )
    for tokens in range(1, 100):
        (items,) = runner.prepare(
            [_record(0, "who won", "blue " * tokens)], _params(window=12, stride=3)
        )
        assert isinstance(items, list)
        cuts = [(item.data.first, item.data.after) for item in items]
        assert (cuts[0][0], cuts[-1][1]) == (0, tokens)
        assert all(one[1] - two[0] == 3 for one, two in pairwise(cuts))
        assert all(
            item.length == 5 + after - first
            for item, (first, after) in zip(items, cuts, strict=True)
        )
        assert all(item.length == 12 for item in items[:-1])
