"""Checkpoints that other programs wrote, read without running anything that is in them."""

from khala.convert.torch_file import read_state_dict, read_torch_file

__all__ = ["read_state_dict", "read_torch_file"]
