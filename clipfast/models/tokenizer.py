"""The bundled models' tokenizer: one token a word, from a closed vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from ..errors import InputError

__all__ = ["WordTokenizer"]

_WORD = re.compile(r"[a-z]+")


class WordTokenizer:
    """Maps texts to token ids as open_clip's tokenizers do: `tokenizer(texts) -> int64 [N, L]`.

    0 pads. The highest id ends a text, which is where open_clip's text tower pools. Case and punctuation
    are ignored.

    Args:
        words: The vocabulary, in lower case.
        context_length: L, the number of tokens of a text, its end included.

    Attributes:
        words: As given.
        context_length: As given.
        vocab_size: The number of ids: one for each word, the padding and the end.
    """

    def __init__(self, words: Sequence[str], *, context_length: int) -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self.vocab_size = len(self.words) + 2
        self._ids = {word: index for index, word in enumerate(self.words, start=1)}

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Tokenizes texts.

        Args:
            texts: A text or several.
            context_length: L, in place of the tokenizer's own.

        Returns:
            Token ids, int64 [N, L].

        Raises:
            InputError: If a word is not in the vocabulary, or a text is too long.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        length = context_length or self.context_length
        tokens = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in enumerate(texts):
            words = _WORD.findall(text.lower())
            unknown = [word for word in words if word not in self._ids]
            if unknown:
                raise InputError(
                    f"the bundled model knows {len(self.words)} words only; not among them: "
                    f"{', '.join(unknown)} (in {text!r}). It knows: {', '.join(self.words)}. "
                    "For other classes name a real CLIP model."
                )
            if len(words) + 1 > length:
                raise InputError(f"expected at most {length - 1} words, got {len(words)}: {text!r}")
            ids = [self._ids[word] for word in words] + [self.vocab_size - 1]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens
