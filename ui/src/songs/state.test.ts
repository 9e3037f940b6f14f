import { expect, test } from "vitest";
import type { Song } from "../api/types";
import {
  familyOf, listed, matches, milestone, needsReading, nothing, withEvent, withoutSong, withSongs,
} from "./state";

const ID = "a".repeat(32);

function song(change: Partial<Song> = {}): Song {
  return {
    id: ID, title: "Porch Light", state: "queued", stage: "",
    wish: "",
    is_recording: false,
    progress: { done: 0, total: 0, eta_s: null }, queue: { position: 1, eta_s: null }, levels: 0,
    levels_wanted: 64, duration: null, model: "", family: ID, priority: 5, kept: false,
    created_at: "2026-01-01T10:00:00Z", finished_at: null, spent_s: 0, error: null, notices: [],
    audio: [], pieces: 0, has_file: false, has_plot: false,
    request: {
      prompt: "pop, piano", lyrics: "[Verse]\nI left the light on", duration: 30,
      instrumental: false, language: "en", seed: 7, levels: 64, temperature: 1, top_k: 80,
      guidance_scale: null, superres_top_k: null,
    },
    ...change,
  };
}

function told(change: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    song: ID, title: "Porch Light", state: "working", stage: "sketch", kept: false, levels: 0,
    levels_wanted: 64, duration_s: null, done: 0, total: 0, eta_s: null, error: null, notices: [],
    finished_at: null, ...change,
  };
}

const ALL = { words: "", show: "all" } as const;

test("a song goes through its stages as the events tell", () => {
  let known = withSongs(nothing, [song()]);
  known = withEvent(known, "song", told());
  expect(known.songs[ID]).toMatchObject({ state: "working", stage: "sketch", queue: null });
  known = withEvent(known, "progress", { song: ID, stage: "sketch", done: 5, total: 10, eta_s: 2 });
  expect(known.songs[ID]?.progress).toEqual({ done: 5, total: 10, eta_s: 2 });
  known = withEvent(known, "song", told({ state: "done", levels: 64, finished_at: 1.5 }));
  expect(known.songs[ID]).toMatchObject({ state: "done", finished_at: "1970-01-01T00:00:01.500Z" });
  known = withEvent(known, "deleted", { song: ID, id: ID });
  expect(known.songs).toEqual({});
});

test("pieces are kept once each, and begin anew with the first", () => {
  const piece = (number: number) => ({ song: ID, number, start_s: number * 4, seconds: 4 });
  let known = withEvent(nothing, "piece", piece(0));
  known = withEvent(known, "piece", piece(1));
  known = withEvent(known, "piece", piece(1));
  expect(known.pieces[ID]?.map((one) => one.number)).toEqual([0, 1]);
  known = withEvent(known, "piece", piece(0));
  expect(known.pieces[ID]?.map((one) => one.number)).toEqual([0]);
});

test("events of songs that nobody has read change nothing, and ask for reading", () => {
  expect(withEvent(nothing, "song", told())).toBe(nothing);
  expect(needsReading(nothing, "song", told())).toBe(true);
});

test("a song is read again when it has new sound, and not for each step", () => {
  const known = withSongs(nothing, [song({ state: "working", stage: "detail", levels: 8 })]);
  const at = { levels: 8, stage: "detail" };
  expect(needsReading(known, "song", told(at))).toBe(false);
  expect(needsReading(known, "progress", { song: ID, stage: "detail", done: 1 })).toBe(false);
  expect(needsReading(known, "song", told({ ...at, levels: 16 }))).toBe(true);
  const sounding = withSongs(nothing, [song({ state: "working", stage: "sound", levels: 8 })]);
  expect(needsReading(sounding, "song", told({ levels: 8, stage: "detail" }))).toBe(true);
});

test("searching and showing are as the service does them", () => {
  const one = song({ kept: true, state: "failed" });
  expect(matches(one, { words: "PORCH light", show: "all" })).toBe(true);
  expect(matches(one, { words: "porch dark", show: "all" })).toBe(false);
  expect(matches(one, { words: "piano", show: "kept" })).toBe(true);
  expect(matches(one, { words: "", show: "failed" })).toBe(true);
  expect(matches(one, { words: "", show: "making" })).toBe(false);
  expect(matches(song({ state: "paused" }), { words: "", show: "making" })).toBe(true);
});

test("a list has new songs at once, and nothing from pages that were not read", () => {
  const at = (id: string, hour: string) =>
    song({ id: id.repeat(32), created_at: `2026-01-01T${hour}:00:00Z` });
  const [old, oldest, newest] = [at("b", "08"), at("c", "09"), at("d", "12")];
  const known = withSongs(nothing, [old, oldest, newest]);
  const ids = (songs: Song[]) => songs.map((one) => one.id[0]);
  expect(ids(listed(known, ALL, oldest, new Set()))).toEqual(["d", "c"]);
  expect(ids(listed(known, ALL, null, new Set([oldest.id])))).toEqual(["d", "b"]);
  expect(withoutSong(known, "nobody")).toBe(known);
});

test("variants stand in the order in which they were asked for", () => {
  const second = song({ id: "b".repeat(32), created_at: "2026-01-01T11:00:00Z" });
  const other = song({ id: "c".repeat(32), family: "c".repeat(32) });
  const known = withSongs(nothing, [second, other, song()]);
  expect(familyOf(known, second, new Set()).map((one) => one.id[0])).toEqual(["a", "b"]);
});

test("milestones are said, steps are not", () => {
  expect(milestone(undefined, song())).toBeNull();
  expect(milestone(song(), song({ state: "working" }))).toBe("begun");
  const working = song({ state: "working" });
  expect(milestone(working, song({ state: "working", levels: 2 }))).toBe("sketch");
  expect(milestone(working, song({ state: "working", stage: "detail" }))).toBeNull();
  expect(milestone(working, song({ state: "done" }))).toBe("done");
  expect(milestone(song({ state: "paused" }), song())).toBeNull();
});
