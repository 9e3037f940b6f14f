import { expect, test } from "vitest";
import { en } from "./en";
import { served } from "./served";
import { tagName } from "./tags";
import { clock, left, when } from "./time";
import { filled, sayIn } from "./words";
import { zh } from "./zh";

test("both languages say the same things with the same values", () => {
  expect(Object.keys(zh).sort()).toEqual(Object.keys(en).sort());
  const values = (text: string) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort();
  for (const key of Object.keys(en) as (keyof typeof en)[]) {
    const shared = values(zh[key]);
    expect(values(en[key]), key).toEqual(shared);
    expect(zh[key].trim(), key).not.toBe("");
  }
});

test("one and many are said differently where they are", () => {
  expect(filled("{n} song||{n} songs", { n: 1 })).toBe("1 song");
  expect(filled("{n} song||{n} songs", { n: 3 })).toBe("3 songs");
  expect(filled("{a} and {b}", { a: 1 })).toBe("1 and {b}");
});

test("times are said as people read them", () => {
  expect([0, 9.99, 60, 83.4, 3600].map(clock)).toEqual(["0:00", "0:09", "1:00", "1:23", "60:00"]);
  const say = sayIn("en");
  expect([0.4, 12.4, 90, 9000].map((s) => left(s, say))).toEqual(["a moment", "12 s", "2 min", "3 h"]);
  const now = new Date(2026, 4, 5, 12, 0);
  expect(when(new Date(2026, 4, 5, 9, 5).toISOString(), "en", now)).toBe("09:05");
  expect(when(new Date(2026, 4, 4, 9, 5).toISOString(), "en", now)).toBe("4 May");
});

test("what the service warns of is said in Chinese, and what is new to us as it came", () => {
  const say = sayIn("zh");
  const line = "96 words in 20 seconds: some will not be sung; 27 seconds would fit";
  expect(served(line, say)).toBe("20 秒内有 96 个词：有些会唱不到。27 秒比较合适。");
  expect(served("something new", say)).toBe("something new");
});

test("tags have names in Chinese", () => {
  expect(tagName("Eb major", "zh")).toBe("降E 大调");
  expect(tagName("piano", "zh")).toBe("钢琴");
  expect(tagName("piano", "en")).toBe("piano");
  expect(tagName("kazoo", "zh")).toBe("kazoo");
});
