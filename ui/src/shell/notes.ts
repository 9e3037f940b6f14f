// Short notes at the edge of the screen, and milestones for those who do not see it.

import { useSyncExternalStore } from "react";

export interface Note {
  id: number;
  text: string;
  tone: "plain" | "bad";
  action?: { label: string; run: () => void };
  lasts_ms: number;
}

let notes: readonly Note[] = [];
let aloud = "";
let number = 0;
const listeners = new Set<() => void>();

export function note(text: string, more: Partial<Omit<Note, "id" | "text">> = {}): number {
  number += 1;
  const id = number;
  const one: Note = { tone: "plain", lasts_ms: 6_000, ...more, id, text };
  // the same words twice are one note
  notes = [...notes.filter((other) => other.text !== text), one].slice(-3);
  tell();
  return id;
}

export function dismiss(id: number): void {
  notes = notes.filter((one) => one.id !== id);
  tell();
}

/** Have a screen reader say something, when it is done with what it says. */
export function announce(text: string): void {
  aloud = text;
  tell();
}

function tell(): void {
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const useNotes = (): readonly Note[] => useSyncExternalStore(subscribe, () => notes);
export const useAloud = (): string => useSyncExternalStore(subscribe, () => aloud);
