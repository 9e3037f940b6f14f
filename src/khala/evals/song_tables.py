"""What ``khala eval songs`` says of its rows: means, tables, and whether the claims hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from khala.evals import report
from khala.evals.listening import tempo_agrees

__all__ = ["check_claims", "summarise"]

MEANS = (
    "duration_right",
    "tempo_right",
    "tempo_right_octaves",
    "key_right",
    "singing_right",
    "instruments_precision",
    "instruments_recall",
    "style_right",
    "loudness_lufs",
    "true_peak_dbtp",
    "flux",
    "beat",
    "key_clarity",
    "longest_still_s",
    "loop",
    "recurrence",
    "per",
    "per_shuffled",
    "skipped_shuffled",
    "wer",
    "wer_shuffled",
)


def summarise(groups: dict[str, list[dict[str, Any]]], marks: Sequence[str] = ()) -> dict[str, Any]:
    """Return the rows of every group ("songs" or "generated" first), their means and tables.

    ``marks`` are the columns that a scorer wrote.
    """
    rows, *others = groups.values()
    names = [
        "song",
        "duration_s",
        "loudness_lufs",
        "true_peak_dbtp",
        "bpm",
        "wanted_bpm",
        "tempo_right",
        "key",
        "key_right",
        "singing_right",
        "loop",
        "recurrence",
        "per",
        "per_shuffled",
        "wer",
        "wer_shuffled",
        *marks,
    ]
    names = [name for name in names if any(row.get(name) is not None for row in rows)]
    table = [
        [*(row.get(name) for name in names), ", ".join(row["faults"]) or "none"] for row in rows
    ]
    means = {name: _means(group, marks) for name, group in groups.items()}
    measured = [[key, *(mean[key] for mean in means.values())] for key in _means(rows, marks)]
    return {
        "songs": rows,
        **({"originals": others[0]} if others else {}),
        "means": means,
        "tables": [
            report.table("Songs", [*names, "faults"], table),
            *_what_plays(rows),
            report.table(
                "Means",
                ["of", *means],
                [row for row in measured if any(cell is not None for cell in row[1:])],
            ),
        ],
    }


def _what_plays(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a table of instruments and styles, where a tagger listened."""
    if "instruments_heard" not in rows[0]:
        return []
    names = ("instruments_precision", "instruments_recall", "style_heard", "wanted_style")
    table: list[list[report.Cell]] = [
        [
            row["song"],
            ", ".join(row["instruments_heard"]) or "none",
            ", ".join(row["wanted_instruments"] or ()) or None,
            *(row[name] for name in names),
        ]
        for row in rows
    ]
    columns = ["song", "heard", "wanted", "precision", "recall", "style", "wanted style"]
    return [report.table("What plays", columns, table)]


def check_claims(
    ours: dict[str, float | None], rows: list[dict[str, Any]]
) -> list[list[report.Cell]]:
    """Return what is claimed of generated songs, what was measured, and whether it holds."""
    checks: list[list[report.Cell]] = [
        ["songs without a fault", ours["no_fault"], ours["no_fault"] == 1.0],
        ["duration within 10 %", ours["duration_right"], ours["duration_right"] == 1.0],
    ]
    if ours["tempo_right"] is not None:
        checks.append(["tempo within 5 %", ours["tempo_right"], ours["tempo_right"] > 0.5])
        chance = _chance_of_tempo(rows)
        checks.append(["of tempi that other songs asked for (chance)", chance, None])
    gap, error = ours["per_gap"], ours["per_gap_standard_error"]
    if gap is not None and error is not None:
        ratio = gap / max(error, 1e-12)
        checks.append(["shuffled minus right PER, in standard errors", ratio, ratio > 3])
    return checks


def _chance_of_tempo(rows: list[dict[str, Any]]) -> float | None:
    """Return how often a song's tempo is the one that another song was asked for."""
    agree = [
        tempo_agrees(one["bpm"], other["wanted_bpm"], octaves=False)
        for one in rows
        for other in rows
        if one is not other and other["wanted_bpm"] is not None
    ]
    return float(np.mean(agree)) if agree else None


def _means(rows: list[dict[str, Any]], marks: Sequence[str]) -> dict[str, float | None]:
    """Average what can be averaged; None where no song has it."""
    found: dict[str, float | None] = {
        "no_fault": float(np.mean([not row["faults"] for row in rows]))
    }
    for name in (*MEANS, *marks):
        values = [float(row[name]) for row in rows if row.get(name) is not None]
        finite = [value for value in values if math.isfinite(value)]
        found[name] = float(np.mean(finite)) if finite else None
    for name in ("words_skipped", "phonemes_repeated"):
        of = {"words_skipped": "words", "phonemes_repeated": "phonemes_wanted"}[name]
        total = sum(row.get(of, 0) for row in rows)
        count = sum(row.get(name, 0) for row in rows)
        found[f"{name}_share"] = count / total if total else None
    gaps = np.array(
        [
            row["per_shuffled"] - row["per"]
            for row in rows
            if row.get("per") is not None and row.get("per_shuffled") is not None
        ]
    )
    found["per_gap"] = float(gaps.mean()) if gaps.size else None
    enough = gaps.size >= 2
    found["per_gap_standard_error"] = (
        float(gaps.std(ddof=1)) / math.sqrt(gaps.size) if enough else None
    )
    return found
