// Names for what the API takes and gives; `schema.ts` is made from docs/openapi.json by `npm run api`.

import type { components } from "./schema";

type Schemas = components["schemas"];

export type Song = Schemas["SongInfo"];
export type SongSettings = Song["request"];
export type SongPage = Schemas["SongPage"];
export type Created = Schemas["Created"];
export type NewSong = Partial<Schemas["NewSong"]>;
export type LyricsChecked = Schemas["LyricsChecked"];
export type Model = Schemas["ModelInfo"];
export type Owner = Schemas["Owner"];
export type Tag = Schemas["Tag"];
export type State = Song["state"];
export type Problem = Schemas["Problem"];
export type Format = "wav" | "flac" | "mp3" | "opus";

/** A song of which something will happen by itself. */
export const isLive = (song: Song): boolean => song.state === "queued" || song.state === "working";

/** The numbers of levels at which a song can be heard, coarsest first. */
export const heardLevels = (song: Song): number[] => song.audio.map((one) => one.levels);
