"""Codes and text, and the joint vocabulary of both. Importing this imports no torch."""

from khala.tokens.interleave import deinterleave, interleave
from khala.tokens.layout import (
    COARSE_LEVELS,
    ControlTokens,
    TokenLayout,
    nano_layout,
    published_layout,
)
from khala.tokens.lyrics import LyricSection, normalise_lyrics, sections
from khala.tokens.prompt import build_prompt, normalise_description
from khala.tokens.text import TextTokenizer

__all__ = [
    "COARSE_LEVELS",
    "ControlTokens",
    "LyricSection",
    "TextTokenizer",
    "TokenLayout",
    "build_prompt",
    "deinterleave",
    "interleave",
    "nano_layout",
    "normalise_description",
    "normalise_lyrics",
    "published_layout",
    "sections",
]
