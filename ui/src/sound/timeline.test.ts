import { expect, test } from "vitest";
import { due, reach_s, type Timeline, withSegment } from "./timeline";

interface Sound {
  duration: number;
}

const empty: Timeline<Sound> = { segments: [], isWhole: false, duration_s: 12 };
const piece = (start_s: number, duration: number) => ({ start_s, buffer: { duration } });
const three = [piece(0, 1), piece(1, 4), piece(5, 4)].reduce(withSegment<Sound>, empty);

test("pieces follow each other without a gap, from the beginning", () => {
  expect(due(three, 0).map((one) => [one.after_s, one.offset_s])).toEqual([[0, 0], [1, 0], [5, 0]]);
});

test("from the middle, the piece that sounds begins inside", () => {
  expect(due(three, 2.5).map((one) => [one.after_s, one.offset_s])).toEqual([[0, 1.5], [2.5, 0]]);
  expect(due(three, 9)).toEqual([]);
});

test("what comes after a gap waits for the gap to close", () => {
  const gapped = withSegment(withSegment(empty, piece(0, 1)), piece(5, 4));
  expect(reach_s(gapped)).toBe(1);
  expect(due(gapped, 0)).toHaveLength(1);
  const closed = withSegment(gapped, piece(1, 4));
  expect(reach_s(closed)).toBe(9);
  expect(due(closed, 0)).toHaveLength(3);
});

test("the same piece twice is one, and the song may become longer than was thought", () => {
  expect(withSegment(three, piece(1, 4))).toBe(three);
  expect(withSegment(three, piece(9, 5)).duration_s).toBe(14);
});
