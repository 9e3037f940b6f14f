"""A request becomes the ids that the models read.

Ids of control tokens are put between ids of text; no string ever holds both, so nothing a user
writes can be more than text.

    song          begin_of_text DESCRIPTION separator [LANGUAGE] separator begin_lyrics
                  (end_line LINE)... separator DURATION end_of_prompt begin_audio
    instrumental  begin_of_text DESCRIPTION separator "Instrumental" separator
                  DURATION end_of_prompt begin_audio
"""

from __future__ import annotations

from collections.abc import Sequence

from khala.errors import RequestError, TokenError
from khala.song import SongRequest, clean_text
from khala.tokens.layout import ControlTokens, TokenLayout
from khala.tokens.lyrics import normalise_lyrics
from khala.tokens.text import TextTokenizer

INSTRUMENTAL = "Instrumental"
"""Stands in the language slot of songs without a voice."""

LANGUAGE_NAMES = {
    "en": "English",
    "ja": "Japanese",
    "ko": "Korean",
    "yue": "Cantonese",
    "zh": "Chinese",
}
"""Names the published models were offered; another language stands as its code."""


def build_prompt(
    request: SongRequest,
    layout: TokenLayout,
    tokenizer: TextTokenizer,
    *,
    max_tokens: int,
    use_language: bool = False,
    bare: bool = False,
) -> list[int]:
    """Return the ids of a whole prompt; the same for backbone and super-resolution.

    Args:
        request: what is asked for; its lyrics may be in any dialect.
        layout: the alphabet of the models.
        tokenizer: the text tokenizer of the models.
        max_tokens: most ids that a prompt may have.
        use_language: write the language of songs into its slot. The published application leaves
            it empty, and so do models trained here unless they say otherwise.
        bare: leave out description and words, and ask for any song, or instrumental, of this
            length: what guidance compares a prompt with.

    Raises:
        RequestError: longer than ``max_tokens`` or than the longest duration; nothing is cut.
        TokenError: tokenizer and layout do not belong together.
    """
    control = layout.control
    duration_id = control.duration_id(request.duration_s)
    language = _language_name(request.language) if use_language else ""
    description = "" if bare else normalise_description(request.prompt)
    description_ids = text_ids(description, layout, tokenizer)
    language_ids = text_ids(INSTRUMENTAL if request.instrumental else language, layout, tokenizer)
    lyrics_ids: list[int] = []
    if not request.instrumental:
        lines = () if bare else normalise_lyrics(request.lyrics).split("\n")
        lyrics_ids = lines_ids(lines, layout, tokenizer)
    ids = join_fields(control, description_ids, language_ids, lyrics_ids, duration_id)
    if len(ids) > max_tokens:
        raise RequestError(
            f"the prompt is {len(ids)} tokens long: at most {max_tokens} are allowed; it has "
            f"{len(lyrics_ids)} tokens of lyrics and {len(description_ids)} of description"
        )
    return ids


def normalise_description(text: str) -> str:
    """Return tags or a description in one line: NFC, no invisible characters, single spaces."""
    return " ".join(clean_text(text).split())


def join_fields(
    control: ControlTokens,
    description_ids: Sequence[int],
    language_ids: Sequence[int],
    lyrics_ids: Sequence[int],
    duration_id: int,
) -> list[int]:
    """Return a whole prompt of its fields; ``lyrics_ids`` is empty exactly without a voice."""
    return [
        control.begin_of_text,
        *(*description_ids, control.separator),
        *(*language_ids, control.separator),
        *lyrics_ids,
        *(duration_id, control.end_of_prompt, control.begin_audio),
    ]


def lines_ids(lines: Sequence[str], layout: TokenLayout, tokenizer: TextTokenizer) -> list[int]:
    """Return the field of the lyrics, from the id that begins it to the one that ends it."""
    control = layout.control
    ids = [control.begin_lyrics]
    for line in lines:
        ids += [control.end_line, *text_ids(line, layout, tokenizer)]
    return [*ids, control.separator]


def text_ids(text: str, layout: TokenLayout, tokenizer: TextTokenizer) -> list[int]:
    """Return the ids of a text; TokenError if the tokenizer is another model's."""
    ids = tokenizer.encode(text)
    if max(ids, default=0) >= layout.first_control_id:
        raise TokenError(
            f"the tokenizer gave id {max(ids)} for text: this model's text ids lie below "
            f"{layout.first_control_id}, so the tokenizer belongs to another model"
        )
    return ids


def _language_name(code: str) -> str:
    return LANGUAGE_NAMES.get(code.split("-")[0].lower(), code)
