// What is known of the songs, and how an event changes it: pure functions, tested as such.

import type { Filter } from "../api/client";
import { isLive, type Song } from "../api/types";

export interface Piece {
  number: number;
  start_s: number;
  seconds: number;
}

export interface Known {
  songs: Readonly<Record<string, Song>>;
  /** Pieces of sketches that are being written, by song. */
  pieces: Readonly<Record<string, readonly Piece[]>>;
}

export const nothing: Known = { songs: {}, pieces: {} };

/** What a `song` event tells. */
interface Told {
  title: string;
  state: Song["state"];
  stage: string;
  kept: boolean;
  levels: number;
  levels_wanted: number;
  duration_s: number | null;
  done: number;
  total: number;
  eta_s: number | null;
  error: Song["error"];
  notices: Song["notices"];
  finished_at: number | null;
}

export function withSongs(known: Known, songs: readonly Song[]): Known {
  if (songs.length === 0) return known;
  const all = { ...known.songs };
  for (const song of songs) all[song.id] = song;
  return { ...known, songs: all };
}

export function withoutSong(known: Known, id: string): Known {
  if (!(id in known.songs)) return known;
  const { [id]: _song, ...songs } = known.songs;
  const { [id]: _pieces, ...pieces } = known.pieces;
  return { songs, pieces };
}

/** Apply an event; songs that nobody has read yet are left to whoever reads them. */
export function withEvent(known: Known, type: string, data: Record<string, unknown>): Known {
  const id = String(data["song"]);
  if (type === "deleted") return withoutSong(known, id);
  if (type === "piece") return withPiece(known, id, data as unknown as Piece);
  const song = known.songs[id];
  if (song === undefined) return known;
  if (type === "song") return withSongs(known, [told(song, data as unknown as Told)]);
  if (type === "progress" && "stage" in data) {
    const { stage, done, total, eta_s } = data as unknown as Told;
    return withSongs(known, [{ ...song, stage, progress: { done, total, eta_s } }]);
  }
  return known;
}

function told(song: Song, told: Told): Song {
  const { title, state, stage, kept, levels, levels_wanted, error, notices } = told;
  return {
    ...song,
    title, state, stage, kept, levels, levels_wanted, error, notices,
    duration: told.duration_s,
    progress: { done: told.done, total: told.total, eta_s: told.eta_s },
    queue: state === "queued" ? song.queue : null,
    finished_at: told.finished_at === null ? null : new Date(told.finished_at * 1000).toISOString(),
  };
}

function withPiece(known: Known, id: string, { number, start_s, seconds }: Piece): Known {
  const before = number === 0 ? [] : (known.pieces[id] ?? []);
  if (before.some((one) => one.number === number)) return known;
  return { ...known, pieces: { ...known.pieces, [id]: [...before, { number, start_s, seconds }] } };
}

/** Whether an event says less of a song than there is to know: new sound, new files, a new song. */
export function needsReading(known: Known, type: string, data: Record<string, unknown>): boolean {
  if (type !== "song") return false;
  const song = known.songs[String(data["song"])];
  if (song === undefined) return true;
  const next = data as unknown as Told;
  return (
    song.state !== next.state ||
    song.levels !== next.levels ||
    song.levels_wanted !== next.levels_wanted ||
    song.stage === "sound"
  );
}

/** Whether a song is among those that are looked for, as the service would decide it. */
export function matches(song: Song, filter: Filter): boolean {
  if (filter.show === "kept" && !song.kept) return false;
  if (filter.show === "failed" && song.state !== "failed") return false;
  if (filter.show === "making" && !isLive(song) && song.state !== "paused") return false;
  const text = `${song.title}\n${song.request.prompt}\n${song.request.lyrics}`.toLowerCase();
  return filter.words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

export function newestFirst(a: Song, b: Song): number {
  if (a.created_at !== b.created_at) return a.created_at < b.created_at ? 1 : -1;
  return a.id < b.id ? 1 : -1;
}

/**
 * The songs of a list: all that match and are not older than the last one that was read for it.
 * So a new song appears in it by itself, and nothing stands below a page that is not there yet.
 */
export function listed(
  known: Known,
  filter: Filter,
  oldest: Song | null,
  hidden: ReadonlySet<string>,
): Song[] {
  return Object.values(known.songs)
    .filter((song) => !hidden.has(song.id) && matches(song, filter))
    .filter((song) => oldest === null || newestFirst(song, oldest) <= 0)
    .sort(newestFirst);
}

export function familyOf(known: Known, song: Song, hidden: ReadonlySet<string>): Song[] {
  return Object.values(known.songs)
    .filter((one) => one.family === song.family && !hidden.has(one.id))
    .sort((a, b) => newestFirst(b, a));
}

/** What a variant is called: A, B, C... */
export const letterOf = (i: number): string => String.fromCharCode(65 + (i % 26));

export type Milestone = "begun" | "sketch" | "done" | "failed" | "paused" | "cancelled";

/** What is worth saying aloud about a change. */
export function milestone(before: Song | undefined, after: Song): Milestone | null {
  if (before === undefined) return null;
  if (before.state !== after.state) {
    // a song that gave way to another goes on where it was: that is no news
    if (after.state === "working") return after.levels === 0 ? "begun" : null;
    return after.state === "queued" ? null : after.state;
  }
  return before.levels === 0 && after.levels > 0 ? "sketch" : null;
}
