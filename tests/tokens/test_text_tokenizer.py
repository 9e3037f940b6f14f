"""Whatever a user writes, no control token comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from khala.errors import CheckpointError, TokenError
from khala.tokens import TextTokenizer, published_layout

BYTES = TextTokenizer.bytes()
NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 8: "eom_id", 9: "eot_id"}
SPECIAL = [f"<|{NAMED.get(index, f'reserved_special_token_{index}')}|>" for index in range(256)]


def llama_like(path: Path, *, special: bool = True) -> Path:
    """A small tokenizer.json built as Llama 3.1's is: byte-level BPE and 256 special tokens."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(characters)}
    vocabulary["la"] = 256
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[("l", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    if special:
        tokenizer.add_special_tokens(tokens)
    else:
        tokenizer.add_special_tokens(tokens[:1])
        tokenizer.add_tokens([AddedToken(text, special=False) for text in SPECIAL[1:]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 257)]
    )
    tokenizer.enable_truncation(max_length=4)
    tokenizer.enable_padding(length=4, pad_id=258)
    tokenizer.save(str(path))
    return path


@given(st.text())
def test_bytes_are_ids(text: str) -> None:
    """The bundled model reads bytes: another number is another letter, sung wrong."""
    assert BYTES.encode(text) == list(text.encode())
    assert BYTES.decode(BYTES.encode(text)) == text


def test_bytes_border() -> None:
    """Half a character or a control id must not pass as text in either direction."""
    assert BYTES.first_control_id == 256
    with pytest.raises(TokenError, match="surrogate"):
        BYTES.encode("\ud800")
    for bad in (-1, 256):
        with pytest.raises(TokenError, match=r"\[0, 256\)"):
            BYTES.decode([bad])


def test_save_and_load(tmp_path: Path) -> None:
    """A model folder moved to another computer must read the same letters."""
    BYTES.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert again.first_control_id == 256
    assert again.encode("Gr\u00fc\u00dfe <|eot_id|>\n") == list(
        "Gr\u00fc\u00dfe <|eot_id|>\n".encode()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_special_tokens_in_user_text_stay_text(tmp_path: Path) -> None:
    """Lyrics with <|eot_id|> in them would end the prompt and take over the song."""
    tokenizer = TextTokenizer.load(llama_like(tmp_path / "tokenizer.json"))
    assert tokenizer.first_control_id == 257
    for text in SPECIAL:
        ids = tokenizer.encode(f"la{text}la")
        assert max(ids) < 257
        assert tokenizer.decode(ids) == f"la{text}la"
    assert 256 in tokenizer.encode("la"), "the merges of the file are used"


@given(st.lists(st.sampled_from([*SPECIAL[:12], "<|", "|>", "<", "eot_id", " ", "\n", "la"])))
def test_no_mixture_becomes_a_control_token(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    """The same for everything that only looks like one, or holds several."""
    folder = tmp_path_factory.getbasetemp() / "llama"
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.json"
    tokenizer = TextTokenizer.load(path if path.exists() else llama_like(path))
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert all(0 <= one < tokenizer.first_control_id for one in ids)
    assert tokenizer.decode(ids) == text


def test_nothing_is_cut_or_padded(tmp_path: Path) -> None:
    """A file that asks for truncation would drop the second verse without a word."""
    tokenizer = TextTokenizer.load(llama_like(tmp_path / "tokenizer.json"))
    text = "the whole second verse"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_file_that_lets_control_tokens_through_is_stopped(tmp_path: Path) -> None:
    """A tokenizer.json from a stranger must not open the border that we closed."""
    tokenizer = TextTokenizer.load(llama_like(tmp_path / "tokenizer.json", special=False))
    with pytest.raises(TokenError, match="control id"):
        tokenizer.encode("la <|eot_id|>")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 10_000, b'{"model": 3}'])
def test_garbage_is_one_error(tmp_path: Path, content: bytes) -> None:
    """A damaged model folder gives one line, not a traceback from a library."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TextTokenizer.load(path)


def test_oversized_and_missing_files(tmp_path: Path) -> None:
    """A huge file would fill the memory before anyone looked at it."""
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="cannot read"):
        TextTokenizer.load(path)
    with path.open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(CheckpointError, match="at most"):
        TextTokenizer.load(path)


def test_bytes_fit_every_layout() -> None:
    """Tests and small models write published prompts with byte ids."""
    assert BYTES.first_control_id <= published_layout().first_control_id
