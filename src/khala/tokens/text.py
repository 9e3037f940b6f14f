"""Text to ids and back. Whatever a user writes, only ids of text come out."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from khala.errors import CheckpointError, TokenError

MAX_FILE_BYTES = 64 * 2**20
"""A tokenizer.json of 128 thousand words has 9 MB."""


class TextTokenizer:
    """The ``tokenizers`` library behind a border that control ids cannot cross.

    Special tokens that stand literally in a text are read as the characters they are made of
    (``encode_special_tokens``), and every id that comes out is checked again.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Guard ``tokenizer``; ids from its first special token on are control ids."""
        special = [
            index for index, added in tokenizer.get_added_tokens_decoder().items() if added.special
        ]
        self._tokenizer = tokenizer
        self._first_control_id = min(special, default=tokenizer.get_vocab_size())
        # A stored file may ask for truncation, padding or forgiving special tokens.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True

    @property
    def first_control_id(self) -> int:
        """Ids of text lie below this."""
        return self._first_control_id

    @classmethod
    def bytes(cls) -> Self:
        """Return the tokenizer whose ids are the UTF-8 bytes of the text, 0 to 255."""
        vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a ``tokenizer.json``.

        Raises:
            CheckpointError: missing, too large, or not a tokenizer.
        """
        path = Path(path)
        try:
            num_bytes = path.stat().st_size
            if num_bytes > MAX_FILE_BYTES:
                raise CheckpointError(
                    f"{path} has {num_bytes} bytes: at most {MAX_FILE_BYTES} are allowed"
                )
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is not a tokenizer.json: not UTF-8") from error
        return cls(_parse(text, path))

    def save(self, path: str | Path) -> None:
        """Write a ``tokenizer.json`` that ``load`` and any other reader of that format reads."""
        path = Path(path)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        temporary.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        temporary.replace(path)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, without any control id.

        Raises:
            TokenError: the text is not valid Unicode, or an id is a control id after all.
        """
        if not text:
            return []
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenError("text has half a character (a lone surrogate): whole ones only") from (
                error
            )
        ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if max(ids, default=0) >= self._first_control_id:
            raise TokenError(
                f"text became control id {max(ids)}: ids of text lie below "
                f"{self._first_control_id}; this tokenizer.json cannot be trusted with user text"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``.

        Raises:
            TokenError: an id is no text.
        """
        for one in ids:
            if not 0 <= one < self._first_control_id:
                raise TokenError(
                    f"id {one} is no text: ids of text lie in [0, {self._first_control_id})"
                )
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _parse(text: str, path: Path) -> Tokenizer:
    try:
        json.loads(text)
        return Tokenizer.from_str(text)
    except Exception as error:
        raise CheckpointError(f"{path} is not a tokenizer.json: {str(error)[:200]}") from error


def _byte_characters() -> list[str]:
    """Return the visible character that stands for each byte in a byte-level vocabulary.

    Visible Latin-1 characters stand for themselves, the others for 256, 257, ... in order: the
    fixed table of every byte-level tokenizer since GPT-2.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]
