"""Answers to several people at a time."""

import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from aga_model.gallery import Gallery, GalleryRow
from aga_model.search import (
    Explainer,
    PersonEncoder,
    SearchOptions,
    TextTruncatedWarning,
    UnknownWritingWarning,
    answer_sentence,
)


class Meeting(str):
    """A sentence at whose first reading threads wait for each other."""

    barrier: threading.Barrier

    def strip(self, *arguments):
        self.barrier.wait(60)
        return super().strip(*arguments)


@pytest.fixture(scope="module")
def encoder(model_folder):
    return PersonEncoder.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def gallery(encoder, tmp_path_factory):
    place = str(tmp_path_factory.mktemp("searching") / "gallery")
    made = Gallery.create(place, encoder.model_hash, encoder.dim, encoder.name)
    row = GalleryRow("/a.png", "0" * 64, "/a.png", 10, 20, encoder.model_hash)
    made.add(np.eye(1, encoder.dim, dtype=np.float32), [row])
    return made


def test_notes_are_those_of_the_own_sentence(encoder, gallery):
    """Two sentences are read at the same moment, both too long: each answer names its own."""
    for _ in range(3):
        Meeting.barrier = threading.Barrier(2)
        sentences = [Meeting("first " * 100), Meeting("second " * 100)]
        notes: dict[str, list[str]] = {}

        def ask(sentence, notes=notes):
            notes[sentence[:5]] = answer_sentence(gallery, encoder, sentence, SearchOptions(1)).notes

        threads = [threading.Thread(target=ask, args=(sentence,)) for sentence in sentences]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert sorted(notes) == ["first", "secon"]
        for own, other in (("first", "second"), ("secon", "first")):
            assert len(notes[own]) == 1 and own in notes[own][0] and other not in notes[own][0]


def test_many_threads_read_each_their_own_sentence(encoder, gallery):
    """A tokenizer keeps how it cuts and pads between calls: lengths and embeddings are those of one thread alone."""
    sentences = [f"number{number} " * (1 + 3 * number) for number in range(8)]
    alone = [encoder.encode_texts_with_notes([sentence]) for sentence in sentences]
    found: dict[int, list] = {number: [] for number in range(8)}

    def ask(number):
        for _ in range(20):
            found[number].append(encoder.encode_texts_with_notes([sentences[number]]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number, (embedding, notes) in enumerate(alone):
        assert len(found[number]) == 20
        for got, got_notes in found[number]:
            np.testing.assert_allclose(got, embedding, atol=1e-6)
            assert list(map(str, got_notes)) == list(map(str, notes))


def test_nothing_is_warned_of_where_notes_are_returned(encoder, gallery):
    explainer = Explainer.from_encoder(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, notes = encoder.encode_texts_with_notes(["word " * 100, "a man", "word " * 90])
        assert [type(note) for note in notes] == [TextTruncatedWarning] * 2
        assert answer_sentence(gallery, encoder, "word " * 100, SearchOptions(1)).notes == [str(notes[0])]
        _, told = explainer.explain_with_notes(Image.new("RGB", (40, 80)), "word " * 100)
        assert list(map(str, told)) == [str(notes[0])]


def test_who_does_not_ask_for_notes_is_warned(encoder):
    with pytest.warns(TextTruncatedWarning, match="the last .* were dropped") as caught:
        encoder.encode_texts(["word " * 100])
    assert caught[0].filename == __file__
    with pytest.warns(TextTruncatedWarning) as caught:
        Explainer.from_encoder(encoder).explain(Image.new("RGB", (40, 80)), "word " * 100)
    assert caught[0].filename == __file__
    assert issubclass(UnknownWritingWarning, UserWarning)


def test_an_error_repeats_little_of_the_sentence(encoder):
    with pytest.raises(ValueError, match="holds no word") as caught:
        encoder.encode_texts(["?!" * 100_000])
    assert len(str(caught.value)) < 200
