// Words of the studio in two languages, and which of them is spoken.

import { useSyncExternalStore } from "react";
import { en } from "./en";
import { zh } from "./zh";

export type Key = keyof typeof en;
export type Language = "en" | "zh";
export type Values = Record<string, string | number>;
export type Say = (key: Key, values?: Values) => string;

const ALL: Record<Language, Record<Key, string>> = { en, zh };
const KEPT = "khala-language";
const listeners = new Set<() => void>();

let language: Language = chosen();

/** The language that was chosen here, or the one that the browser prefers. */
function chosen(): Language {
  const kept = typeof localStorage === "undefined" ? null : localStorage.getItem(KEPT);
  if (kept === "en" || kept === "zh") return kept;
  return typeof navigator !== "undefined" && /^zh\b/i.test(navigator.language) ? "zh" : "en";
}

export function setLanguage(next: Language): void {
  language = next;
  localStorage.setItem(KEPT, next);
  for (const listener of listeners) listener();
}

export const getLanguage = (): Language => language;

/**
 * Fill a sentence in: "{n} songs". Where one thing is said otherwise than many, both stand there:
 * "{n} song||{n} songs".
 */
export function filled(sentence: string, values: Values = {}): string {
  const [one = "", many] = sentence.split("||");
  const form = many === undefined || values["n"] === 1 ? one : many;
  return form.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

export function sayIn(spoken: Language): Say {
  return (key, values) => filled(ALL[spoken][key], values);
}

const SAYS: Record<Language, Say> = { en: sayIn("en"), zh: sayIn("zh") };

export const say: Say = (key, values) => SAYS[language](key, values);

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function useLanguage(): Language {
  return useSyncExternalStore(subscribe, getLanguage);
}

export function useWords(): Say {
  return SAYS[useLanguage()];
}
