import pytest

from clipfast import InputError
from clipfast.models.tokenizer import WordTokenizer

WORDS = ("a", "photo", "of", "cat")


def test_words_get_their_ids_and_the_end_is_the_highest():
    tokens = WordTokenizer(WORDS, context_length=6)(["A photo of a CAT.", "cat"])
    assert tokens.tolist() == [[1, 2, 3, 1, 4, 5], [4, 5, 0, 0, 0, 0]]
    assert tokens.argmax(dim=1).tolist() == [5, 1]  # where open_clip's text tower pools


def test_one_text_may_be_a_string():
    assert WordTokenizer(WORDS, context_length=3)("cat").tolist() == [[4, 5, 0]]


def test_unknown_words_and_long_texts_are_named():
    tokenizer = WordTokenizer(WORDS, context_length=4)
    with pytest.raises(InputError, match=r"not among them: dog, big .*knows: a, photo, of, cat"):
        tokenizer("a dog big cat")
    with pytest.raises(InputError, match="at most 3 words, got 4"):
        tokenizer("a photo of cat")
