import { expect, test } from "vitest";
import { EMPTY, fieldOf, fromSong, tagsOf, toRequest, withTag } from "./draft";

test("a draft becomes a request and comes back from a song", () => {
  const draft = { ...EMPTY, lyrics: "[Verse]\nla", tags: ["pop", "3/4"], seed: "7", duration: 20 };
  const request = toRequest(draft);
  expect(request).toMatchObject({ prompt: "pop, 3/4", seed: 7, duration: 20, n: 1 });
  const { n: _n, title: _title, ...settings } = request;
  const back = fromSong({ superres_top_k: null, ...settings } as Parameters<typeof fromSong>[0], "");
  expect(toRequest(back)).toEqual(request);
});

test("an instrumental keeps its words to itself, and an empty seed is a new one", () => {
  const request = toRequest({ ...EMPTY, lyrics: "la", isInstrumental: true });
  expect(request).toMatchObject({ lyrics: "", instrumental: true, seed: null });
});

test("tags are cut at commas of any script and are there once", () => {
  expect(tagsOf(" pop, piano,，女声、pop ")).toEqual(["pop", "piano", "女声"]);
  expect(withTag(["pop"], "warm  pad, pop")).toEqual(["pop", "warm pad"]);
});

test("problems find their field", () => {
  expect(fieldOf("duration_s")).toBe("duration");
  expect(fieldOf("prompt")).toBe("tags");
  expect(fieldOf("songs")).toBeNull();
});
