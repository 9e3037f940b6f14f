"""The service: songs asked for over HTTP, made by workers, kept whatever happens.

The process that answers (`app`) and the processes that make songs (`worker`) share a database and a
place for files, and nothing else; only workers load torch.
"""
