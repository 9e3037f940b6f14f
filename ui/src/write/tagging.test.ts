import { expect, test } from "vitest";
import { insertTag, nextTag, parts } from "./tagging";

function inserted(text: string, tag: string, from = text.length, to = from): string {
  const at = insertTag(text, from, to, tag);
  const result = text.slice(0, at.from) + at.text + text.slice(at.to);
  return `${result.slice(0, at.cursor)}|${result.slice(at.cursor)}`;
}

test("a tag stands on a line of its own with a blank line before it", () => {
  expect(inserted("", "[Verse 1]")).toBe("[Verse 1]\n|");
  expect(inserted("one line", "[Chorus]")).toBe("one line\n\n[Chorus]\n|");
  expect(inserted("one line\n\n\n", "[Chorus]")).toBe("one line\n\n[Chorus]\n|");
});

test("in the middle of a line no word is torn", () => {
  expect(inserted("one line\nanother", "[Bridge]", 3)).toBe("one line\n\n[Bridge]\n|another");
});

test("what is selected is replaced", () => {
  expect(inserted("a\nbad\nc", "[Solo]", 2, 5)).toBe("a\n\n[Solo]\n|c");
});

test("verses are counted, however they are written", () => {
  expect(nextTag("", "Verse")).toBe("[Verse 1]");
  expect(nextTag("[Verse]\nla\n[verse]\nla", "Verse")).toBe("[Verse 3]");
  expect(nextTag("[Verse 4]\nla", "Verse")).toBe("[Verse 5]");
  expect(nextTag("[Chorus]\nla", "Chorus")).toBe("[Chorus]");
});

test("the coloured copy is the same text", () => {
  const text = "[Verse 1]\nI [am\n] not [here] and [there";
  expect(parts(text).map((part) => part.text).join("")).toBe(text);
  expect(parts(text).filter((part) => part.isTag).map((part) => part.text)).toEqual(["[Verse 1]", "[here]"]);
});
