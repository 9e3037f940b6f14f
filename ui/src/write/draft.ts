// What is being written: kept in this browser until it is sent, and turned into a request.

import type { NewSong, SongSettings } from "../api/types";

export interface Draft {
  lyrics: string;
  tags: string[];
  isInstrumental: boolean;
  /** null: from the words. */
  duration: number | null;
  /** Empty: a new one each time. */
  seed: string;
  n: number;
  /** null: all of the model's. */
  levels: number | null;
  temperature: number;
  top_k: number;
  /** null: as the model was measured. */
  guidance: number | null;
  language: string;
  title: string;
}

export const EMPTY: Draft = {
  lyrics: "", tags: [], isInstrumental: false, duration: null, seed: "", n: 1, levels: null,
  temperature: 1, top_k: 80, guidance: null, language: "en", title: "",
};

const KEPT = "khala-draft";
export const LARGEST_SEED = 2 ** 53 - 1;

export const isBlank = (draft: Draft): boolean =>
  draft.lyrics.trim() === "" && draft.tags.length === 0 && draft.title === "";

/** Split text into style tags. */
export function tagsOf(text: string): string[] {
  const tags = text.split(/[,，、;\n]/).map((tag) => tag.trim().replace(/\s+/g, " "));
  return tags.filter((tag, i) => tag !== "" && tags.indexOf(tag) === i);
}

export function withTag(tags: readonly string[], text: string): string[] {
  return tagsOf([...tags, text].join(","));
}

export function toRequest(draft: Draft): NewSong {
  const seed = draft.seed.trim();
  return {
    prompt: draft.tags.join(", "),
    lyrics: draft.isInstrumental ? "" : draft.lyrics,
    instrumental: draft.isInstrumental,
    duration: draft.duration,
    language: draft.language.trim() || "en",
    seed: seed === "" ? null : Number(seed),
    n: draft.n,
    levels: draft.levels,
    temperature: draft.temperature,
    top_k: draft.top_k,
    guidance_scale: draft.guidance,
    title: draft.title.trim(),
  };
}

/** The settings of a song that is there, to be changed and made again. */
export function fromSong(request: SongSettings, title: string): Draft {
  return {
    ...EMPTY,
    lyrics: request.lyrics,
    tags: tagsOf(request.prompt),
    isInstrumental: request.instrumental,
    duration: request.duration ?? null,
    seed: request.seed === null || request.seed === undefined ? "" : String(request.seed),
    levels: request.levels ?? null,
    temperature: request.temperature,
    top_k: request.top_k,
    guidance: request.guidance_scale ?? null,
    language: request.language,
    title,
  };
}

/** The field of the form that a field of the API stands in. */
export function fieldOf(field: string | null): keyof Draft | null {
  if (field === null) return null;
  const names: Record<string, keyof Draft> = {
    prompt: "tags", lyrics: "lyrics", duration: "duration", duration_s: "duration", seed: "seed",
    n: "n", levels: "levels", temperature: "temperature", top_k: "top_k",
    guidance_scale: "guidance", language: "language", title: "title",
    instrumental: "isInstrumental",
  };
  return names[field] ?? null;
}

export function keepDraft(draft: Draft): void {
  localStorage.setItem(KEPT, JSON.stringify(draft));
}

export function keptDraft(): Draft {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}") as Partial<Draft>;
    const isSame = (name: keyof Draft): boolean => {
      const value = kept[name];
      const model = EMPTY[name];
      return model === null ? value === null || typeof value === "number" : typeof value === typeof model;
    };
    const names = (Object.keys(EMPTY) as (keyof Draft)[]).filter(isSame);
    return { ...EMPTY, ...Object.fromEntries(names.map((name) => [name, kept[name]])) };
  } catch {
    return EMPTY;
  }
}
