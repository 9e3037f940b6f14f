// How far a song is, in a word and as a part of the whole.

import type { Song } from "../api/types";
import type { Key, Say } from "../words/words";

/** What part of a song the sketch is, of the time that it takes. */
const SKETCH_SHARE = 0.35;

export function stageLine(song: Song, say: Say): string {
  if (song.state === "queued") {
    const position = song.queue?.position ?? 1;
    return position <= 1 ? say("queue.next") : say("queue.position", { n: position });
  }
  return say(stageKey(song));
}

export function stageKey(song: Song): Key {
  switch (song.stage) {
    case "sketch": return "stage.sketch";
    case "detail": return "stage.detail";
    case "sound": return "stage.sound";
    case "encode": return "stage.encode";
    default: return "stage.begin";
  }
}

/** 0 ... 1 of everything that is wanted. */
export function shareDone(song: Song): number {
  if (song.state === "done") return 1;
  if (song.levels === 0) {
    const { done, total } = song.progress;
    const share = total > 0 ? done / total : 0;
    return share * (song.levels_wanted > 2 ? SKETCH_SHARE : 0.9);
  }
  return SKETCH_SHARE + (1 - SKETCH_SHARE) * shareOfLevels(levelsDone(song), song.levels_wanted);
}

/** Levels that are there, with those that are just being worked out. */
export function levelsDone(song: Song): number {
  const isDetail = song.state === "working" && song.stage === "detail";
  return isDetail ? Math.max(song.levels, song.progress.done) : song.levels;
}

function shareOfLevels(levels: number, wanted: number): number {
  return wanted <= 2 ? 1 : Math.min(Math.max((levels - 2) / (wanted - 2), 0), 1);
}
