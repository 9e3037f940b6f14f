// Light, dark, or as the computer is.

import { useSyncExternalStore } from "react";

export type Theme = "auto" | "light" | "dark";

const KEPT = "khala-theme";
const listeners = new Set<() => void>();
let theme: Theme = "auto";

export function startTheme(): void {
  const kept = localStorage.getItem(KEPT);
  setTheme(kept === "light" || kept === "dark" ? kept : "auto");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
}

export function setTheme(next: Theme): void {
  theme = next;
  localStorage.setItem(KEPT, next);
  document.documentElement.dataset["theme"] = next;
  tell();
}

export const isDark = (): boolean =>
  theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

function tell(): void {
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function useTheme(): Theme {
  return useSyncExternalStore(subscribe, () => theme);
}

export function useIsDark(): boolean {
  return useSyncExternalStore(subscribe, isDark);
}
