// Section tags in lyrics: where a new one goes, and which number it gets.

export const SECTIONS = [
  "Intro", "Verse", "Pre-Chorus", "Chorus", "Bridge", "Solo", "Outro",
] as const;

export interface Insertion {
  /** What of the text is replaced: from, to. */
  from: number;
  to: number;
  text: string;
  /** Where the cursor stands afterwards. */
  cursor: number;
}

/** The next tag of a name: verses are counted, the others are themselves. */
export function nextTag(lyrics: string, name: string): string {
  if (name !== "Verse") return `[${name}]`;
  const verses = [...lyrics.matchAll(/^\s*\[verse(?:\s+(\d+))?[^\]]*\]/gim)];
  if (verses.length === 0) return "[Verse 1]";
  const numbers = verses.map((found, i) => Number(found[1] ?? i + 1));
  return `[Verse ${Math.max(...numbers, verses.length) + 1}]`;
}

/** Put a tag on a line of its own at the cursor, with a blank line before it. */
export function insertTag(lyrics: string, from: number, to: number, tag: string): Insertion {
  // in the middle of a line the tag goes after it: no word is torn
  const isSelection = to > from;
  let at = to;
  if (!isSelection && lyrics.slice(lyrics.lastIndexOf("\n", at - 1) + 1, at).trim() !== "") {
    const end = lyrics.indexOf("\n", at);
    at = end < 0 ? lyrics.length : end;
  }
  const start = isSelection ? from : at;
  const before = lyrics.slice(0, start).replace(/[ \t\n]+$/, "");
  const after = lyrics.slice(isSelection ? to : at).replace(/^[ \t]*\n*/, "");
  const lead = before === "" ? "" : "\n\n";
  const end = lyrics.length - after.length;
  const text = `${lead}${tag}\n`;
  return { from: before.length, to: end, text, cursor: before.length + text.length };
}

export interface Part {
  text: string;
  isTag: boolean;
}

/** Cut text into tags in square brackets and what is between them, to be coloured. */
export function parts(text: string): Part[] {
  return text
    .split(/(\[[^[\]\n]{1,60}\])/)
    .map((part, i) => ({ text: part, isTag: i % 2 === 1 }))
    .filter((part) => part.text !== "");
}
