import { useEffect } from "react";
import type { Key } from "../words/words";
import { type Studio, useStudio } from "./studio";

export const KEYS: readonly { shown: readonly string[]; key: Key }[] = [
  { shown: ["Space"], key: "keys.play" },
  { shown: ["←", "→"], key: "keys.seek" },
  { shown: ["l"], key: "keys.level" },
  { shown: ["v"], key: "keys.variant" },
  { shown: ["/"], key: "keys.search" },
  { shown: ["n"], key: "keys.new" },
  { shown: ["Ctrl", "Enter"], key: "keys.make" },
  { shown: ["Esc"], key: "keys.close" },
  { shown: ["?"], key: "keys.help" },
];

const WRITES = "input:not([type=checkbox],[type=radio],[type=range]), textarea, select, [contenteditable]";
const ACTS = "button, a[href], summary, input, [role=slider]";

interface Uses {
  onSearch(): void;
  onNew(): void;
  onHelp(): void;
  onOpen(id: string): void;
}

/** Keys that work everywhere but where somebody writes. */
export function useKeys(uses: Uses): void {
  const studio = useStudio();
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const target = event.target instanceof Element ? event.target : document.body;
      if (target.closest(WRITES) !== null || target.closest("dialog") !== null) return;
      if (act(event.key, target, studio, uses)) event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });
}

function act(key: string, target: Element, studio: Studio, uses: Uses): boolean {
  const { listening } = studio;
  const isControl = target.closest(ACTS) !== null;
  switch (key) {
    case " ":
      // on a button the space bar presses the button
      if (isControl || listening.get().song === null) return false;
      listening.toggle();
      return true;
    case "ArrowLeft":
    case "ArrowRight":
      if (target.closest("input, [role=slider]") !== null || listening.get().song === null) return false;
      listening.nudge(key === "ArrowLeft" ? -5 : 5);
      return true;
    case "l": return nextLevel(studio);
    case "v": return nextVariant(studio, uses);
    case "/": uses.onSearch(); return true;
    case "n": uses.onNew(); return true;
    case "?": uses.onHelp(); return true;
    default: return false;
  }
}

function nextLevel({ songs, listening }: Studio): boolean {
  const heard = listening.get();
  const there = songs.song(heard.song)?.audio.map((one) => one.levels) ?? [];
  const next = there[(there.indexOf(heard.levels ?? 0) + 1) % there.length];
  if (next !== undefined) listening.choose(next);
  return next !== undefined;
}

function nextVariant({ songs, listening }: Studio, uses: Uses): boolean {
  const song = songs.song(listening.get().song);
  if (song === undefined) return false;
  const { known, hidden } = songs.get();
  const family = Object.values(known.songs)
    .filter((one) => one.family === song.family && one.audio.length > 0 && !hidden.has(one.id))
    .sort((a, b) => (a.created_at < b.created_at || (a.created_at === b.created_at && a.id < b.id) ? -1 : 1));
  const next = family[(family.findIndex((one) => one.id === song.id) + 1) % family.length];
  if (next === undefined || next.id === song.id) return false;
  listening.compare(next.id);
  uses.onOpen(next.id);
  return true;
}
