"""An endless demo corpus: composer, band, singer, mix and ground truth.

``write_corpus`` writes what ``khala.corpus`` reads; nothing here is licensed otherwise than the
package itself, and the songs belong to whoever makes them.
"""

from khala.synth.corpus import GENERATOR_VERSION, num_songs, write_corpus
from khala.synth.phonemes import CONSONANTS, PHONEMES, SILENCE, VOWELS, is_vowel
from khala.synth.render import RenderedSong, Studio, render_song
from khala.synth.voices import VOICES, Voice

__all__ = [
    "CONSONANTS",
    "GENERATOR_VERSION",
    "PHONEMES",
    "SILENCE",
    "VOICES",
    "VOWELS",
    "RenderedSong",
    "Studio",
    "Voice",
    "is_vowel",
    "num_songs",
    "render_song",
    "write_corpus",
]
