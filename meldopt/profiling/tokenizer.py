"""A byte-level BPE tokenizer of a corpus, and the corpus as arrays of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from meldopt.errors import ProfilingError

from .corpus import SPLITS, domain_names, read_documents

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

END = "<eos>"
"""Ends a document; token 0."""


def train_tokenizer(folder: Path, *, vocabulary: int = 2048) -> Tokenizer:
    """Learn a vocabulary from the training split, and write all splits as tokens.

    Parameters
    ----------
    folder
        A corpus; gets ``tokenizer.json`` and ``DOMAIN.SPLIT.npy`` (uint16).
    vocabulary
        Number of tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = domain_names(folder)
    texts = (text for name in names for text in read_documents(folder, name, "train"))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in names:
        for split in SPLITS:
            encoded = tokenizer.encode_batch(read_documents(folder, name, split))
            tokens = [token for text in encoded for token in (*text.ids, 0)]
            np.save(folder / f"{name}.{split}.npy", np.array(tokens, dtype=np.uint16))
    return tokenizer


def read_tokens(folder: Path, domain: str, split: str) -> NDArray[np.int64]:
    """Read the tokens of a domain and split, in the order of the documents."""
    tokens: NDArray[np.uint16] = np.load(folder / f"{domain}.{split}.npy")
    return tokens.astype(np.int64)


def windows(tokens: NDArray[np.int64], count: int, length: int) -> NDArray[np.int64]:
    """Cut evenly spaced windows that do not overlap.

    Parameters
    ----------
    tokens
        Tokens of a split, (T,).
    count, length
        Number of windows and tokens of each.

    Returns
    -------
    ndarray of int64, shape (count, length)

    Raises
    ------
    ProfilingError
        If so many windows do not fit.
    """
    if count * length > len(tokens):
        raise ProfilingError(
            f"windows: got {count} of {length} tokens, expected at most "
            f"{len(tokens) // length} in {len(tokens)} tokens"
        )
    starts = np.linspace(0, len(tokens) - length, count).astype(np.int64)
    rows: NDArray[np.int64] = tokens[starts[:, None] + np.arange(length)]
    return rows


def save_tokenizer(corpus: Path, folder: Path) -> None:
    """Put the tokenizer of a corpus beside a model, where transformers finds it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(corpus / "tokenizer.json"), eos_token=END
    )
    tokenizer.save_pretrained(folder)
