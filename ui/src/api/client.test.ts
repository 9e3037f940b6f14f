import { expect, test } from "vitest";
import { fileName } from "./client";

test("a file is named as the service names it, in any script", () => {
  const both = "attachment; filename=\"a.wav\"; filename*=UTF-8''%E7%AA%97.wav";
  expect(fileName(both)).toBe("窗.wav");
  expect(fileName('attachment; filename="Porch Light.wav"')).toBe("Porch Light.wav");
  expect(fileName("attachment; filename=\"b.wav\"; filename*=UTF-8''%E7%")).toBe("b.wav");
  expect(fileName("inline")).toBeNull();
});
