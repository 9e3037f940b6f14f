"""What a user asks for, and what they get: a request and a song. Imports no torch."""

from khala.song.request import SongRequest, check_text, clean_text
from khala.song.song import COMPAT_MODES, DTYPES, ENDINGS, Song

__all__ = ["COMPAT_MODES", "DTYPES", "ENDINGS", "Song", "SongRequest", "check_text", "clean_text"]
