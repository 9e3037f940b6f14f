// What the service says in English, said in the language that is spoken, where we know how.

import type { Key, Say } from "./words";

const KNOWN: [RegExp, Key, string[]][] = [
  [
    /^(\d+) words in ([\d.]+) seconds: some will not be sung; (\d+) seconds would fit$/,
    "served.dense", ["words", "seconds", "fit"],
  ],
  [/^words before the first section tag belong to no section$/, "served.before", []],
  [/^\[(.+)\] has no words$/, "served.empty", ["tag"]],
  [/^(\d+) songs(?: of yours)? wait, and at most (\d+) may/, "served.full", ["n", "most"]],
  [/^the disk is full/, "served.disk", []],
  [/^lyrics has (\d+) characters: at most (\d+)/, "served.long", ["n", "most"]],
  [/^lyrics: string should have at most (\d+) characters$/, "served.longer", ["most"]],
  [/^duration is ([\d.]+): at most (\d+) seconds/, "served.duration", ["n", "most"]],
  [/^there is no such song$/, "served.gone", []],
  [/^at most (\d+) requests a second/, "served.fast", ["n"]],
];

export function served(line: string, say: Say): string {
  for (const [pattern, key, names] of KNOWN) {
    const found = pattern.exec(line);
    if (found !== null) {
      return say(key, Object.fromEntries(names.map((name, i) => [name, found[i + 1] ?? ""])));
    }
  }
  return line;
}
