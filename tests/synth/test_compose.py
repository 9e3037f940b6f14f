"""Plans and scores: what is asked of the corpus as a whole, and what is kept out of training."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from khala.synth.compose import compose
from khala.synth.form import plan_song, split_of
from khala.synth.lexicon import load_lexicon
from khala.synth.melody import MIN_NOTE_S, MOTIF_NOTES, is_held_out, motif_of
from khala.synth.score import Score
from khala.synth.voices import VOICES, voice_named


@cache
def _scores(count: int = 160) -> tuple[Score, ...]:
    return tuple(compose(plan_song(i, 5)) for i in range(count))


def _lines(score: Score) -> dict[int, list[int]]:
    lines: dict[int, list[int]] = {}
    for word in score.words:
        lines.setdefault(word.line, []).extend(note.pitch for note in word.notes)
    return lines


def test_the_corpus_is_varied() -> None:
    """A model trained on three keys and two tempos cannot follow a prompt for others."""
    plans = [plan_song(i, 3) for i in range(800)]
    assert len({p.style for p in plans}) >= 8
    assert len({(p.tonic, p.minor) for p in plans}) == 24
    assert {p.beats_per_bar for p in plans} == {3, 4}
    assert min(p.bpm for p in plans) < 75
    assert max(p.bpm for p in plans) > 140
    assert all(60 <= p.bpm <= 160 for p in plans)
    assert {s.kind for p in plans for s in p.sections} >= {
        "intro", "verse", "chorus", "bridge", "outro",
    }  # fmt: skip
    assert len({p.voice for p in plans if p.split == "train"} - {None}) >= 4
    assert 0.04 < sum(p.voice is None for p in plans) / len(plans) < 0.2
    assert all(20.0 <= p.duration_s <= 60.0 for p in plans)


def test_a_song_is_a_pure_function_of_seed_and_index() -> None:
    """A corpus resumed tomorrow must go on with the same songs."""
    assert compose(plan_song(17, 9)) == compose(plan_song(17, 9))
    assert compose(plan_song(17, 9)) != compose(plan_song(17, 10))


def test_three_songs_of_forty_are_held_out() -> None:
    """The reader of the corpus and its writer must agree on what is a test song."""
    assert [split_of(i) for i in (0, 1, 2, 3, 39, 40, 41, 42)] == [
        "test", "test_voice", "test_words", "train", "train", "test", "test_voice", "test_words",
    ]  # fmt: skip


def test_the_held_out_voice_sings_only_in_its_split() -> None:
    """One train song with that voice would turn the unseen-voice score into a lie."""
    for index in range(800):
        plan = plan_song(index, 4)
        if plan.voice is not None:
            assert voice_named(plan.voice).held_out == (plan.split == "test_voice")
    assert sum(v.held_out for v in VOICES) == 1


def test_held_out_words_and_motifs_never_occur_elsewhere() -> None:
    """Unseen words and melodies must be unseen, or the split measures memory."""
    words = load_lexicon().words
    seen = 0
    for score in _scores():
        unseen_split = score.plan.split == "test_words"
        held_out = [w.word for w in score.words if words[w.word].held_out]
        motifs = [motif_of(pitches) for pitches in _lines(score).values()]
        if unseen_split:
            seen += 1
            assert len(held_out) > 0.25 * len(score.words)
            assert all(map(is_held_out, motifs))
        else:
            assert not held_out
            assert not any(map(is_held_out, motifs))
    assert seen >= 4


def test_every_syllable_has_its_note_and_time_to_be_understood() -> None:
    """A word of two syllables on one note, or of a tenth of a second, cannot be heard."""
    words = load_lexicon().words
    for score in _scores():
        clock = score.plan.clock
        for word in score.words:
            assert len(word.notes) == words[word.word].num_syllables
            for note in word.notes:
                assert clock.seconds(note.end) - clock.seconds(note.start) >= MIN_NOTE_S - 1e-9
        for pitches in _lines(score).values():
            assert len(pitches) >= MOTIF_NOTES


def test_singers_stay_in_their_range() -> None:
    """Far from its natural pitch the spoken voice turns into a cartoon."""
    for score in _scores():
        if score.plan.voice is None:
            continue
        centre = voice_named(score.plan.voice).centre
        assert all(abs(n.pitch - centre) <= 11 for w in score.words for n in w.notes)


def test_notes_of_the_voice_do_not_overlap() -> None:
    """One singer has one mouth."""
    for score in _scores():
        notes = [n for w in score.words for n in w.notes]
        for before, after in pairwise(notes):
            assert before.end <= after.start + 1e-9


def test_choruses_come_back_word_for_word_and_note_for_note() -> None:
    """A chorus is what the listener recognises."""
    found = 0
    for score in _scores():
        blocks = [b.split("\n") for b in score.lyrics.split("\n\n")]
        choruses = [b[1:] for b in blocks if b[0] == "[Chorus]" and len(b) > 1]
        if len(choruses) > 1:
            found += 1
            for other in choruses[1:]:
                shared = min(len(choruses[0]), len(other))
                assert choruses[0][:shared] == other[:shared]
    assert found > 10


def test_most_line_pairs_rhyme() -> None:
    """Lyrics that never rhyme do not teach a model to."""
    words = load_lexicon().words
    rhymed = total = 0
    for score in _scores():
        if score.plan.split == "test_words":
            continue
        for block in score.lyrics.split("\n\n"):
            ends = [words[line.split()[-1]] for line in block.split("\n")[1:]]
            for i in range(0, len(ends) - 1, 2):
                total += 1
                partners = [ends[i + 1]] + ([ends[i + 2]] if i + 2 < len(ends) else [])
                rhymed += any(ends[i].rhyme[0] == p.rhyme[0] for p in partners)
    assert rhymed / total > 0.8


def test_common_words_are_common() -> None:
    """Zipf: without frequent words a small model never hears one often enough to learn it."""
    counts: dict[str, int] = {}
    for score in _scores():
        for word in score.words:
            counts[word.word] = counts.get(word.word, 0) + 1
    ranked = sorted(counts.values(), reverse=True)
    assert sum(ranked[:100]) > 0.5 * sum(ranked)
    assert len(ranked) > 600


def test_lyrics_and_sung_words_are_the_same() -> None:
    """The prompt's words must be the words that are sung, in order."""
    for score in _scores():
        written = [
            word
            for line in score.lyrics.split("\n")
            if line and not line.startswith("[")
            for word in line.split()
        ]
        assert written == [w.word for w in score.words]
