"""Khala: full songs from text and lyrics, through one hierarchy of acoustic tokens."""
