"""``--set a.b=value`` against a config: typed by its dataclasses, unknown keys refused.

The value is read as JSON (``3``, ``1e-3``, ``true``, ``null``, ``[1, 2]``); what is not JSON is a
string, so ``--set train.schedule=wsd`` needs no quotes.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from khala.checkpoint import config_from_dict, config_to_dict
from khala.errors import CheckpointError, ConfigError

__all__ = ["apply_overrides"]

C = TypeVar("C")


def apply_overrides(config: C, overrides: Sequence[str]) -> C:
    """Return ``config`` with every ``key=value`` applied; validation runs again.

    Raises:
        ConfigError: no "=", an unknown key (with the nearest name), or a value of another type.
    """
    values = config_to_dict(config)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"an override is written key=value, not {override!r}")
        *parents, last = key.strip().split(".")
        place: Any = values
        for depth, name in enumerate(parents):
            place = place[_known(name, place, parents[:depth])]
            if not isinstance(place, dict):
                raise ConfigError(f"{'.'.join(parents[: depth + 1])} is a value, not a group")
        place[_known(last, place, parents)] = _read(text.strip())
    try:
        return config_from_dict(type(config), values)
    except CheckpointError as error:
        raise ConfigError(f"--set {' '.join(overrides)}: {error}") from error


def _known(name: str, place: dict[str, Any], parents: Sequence[str]) -> str:
    """Return ``name`` if it is there, else say which is nearest."""
    if name in place:
        return name
    near = difflib.get_close_matches(name, place, n=1, cutoff=0.0)
    where = ".".join(parents) or "the top"
    raise ConfigError(
        f"no setting {name!r} in {where}; nearest: {near[0] if near else 'none'} "
        f"(there are {', '.join(sorted(place))})"
    )


def _read(text: str) -> Any:
    """Read a value as JSON, or as the string it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def field_names(config: object) -> list[str]:
    """Return every key that can be set, dotted, in order."""
    names: list[str] = []
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += [f"{field.name}.{inner}" for inner in field_names(value)]
        else:
            names.append(field.name)
    return names
