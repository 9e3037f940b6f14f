import { expect, test } from "vitest";
import { EventParser } from "./sse";

const HELLO = 'retry: 1000\nid: 7\nevent: hello\ndata: {}\n\n';

test("reads events however the network cuts them", () => {
  const text = `${HELLO}: still here\n\nid: 8\nevent: song\ndata: {"a":1}\n\n`;
  const whole = new EventParser().push(text);
  const parser = new EventParser();
  const cut = [...text].flatMap((letter) => parser.push(letter));
  expect(cut).toEqual(whole);
  expect(whole).toEqual([
    { id: "7", type: "hello", data: "{}" },
    { id: "8", type: "song", data: '{"a":1}' },
  ]);
});

test("keeps half an event until the rest comes", () => {
  const parser = new EventParser();
  expect(parser.push("event: song\nda")).toEqual([]);
  expect(parser.push("ta: 1\n")).toEqual([]);
  expect(parser.push("\n")).toEqual([{ id: null, type: "song", data: "1" }]);
});

test("reads CRLF, CRLF cut in two, CR, and several lines of data", () => {
  const parser = new EventParser();
  expect(parser.push("data: a\r\ndata: b\r")).toEqual([]);
  expect(parser.push("\n\r\n")).toEqual([{ id: null, type: "message", data: "a\nb" }]);
  expect(parser.push("data:x\r\rdata:")).toEqual([{ id: null, type: "message", data: "x" }]);
});

test("an event without data is none, and the id stays for those after it", () => {
  const parser = new EventParser();
  expect(parser.push("id: 3\nevent: x\n\n")).toEqual([]);
  expect(parser.push("data: y\n\n")).toEqual([{ id: "3", type: "message", data: "y" }]);
});
