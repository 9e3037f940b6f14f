// A sound that may still grow: where its parts lie, and what is to be played from somewhere on.

export interface Segment<Buffer extends { duration: number } = AudioBuffer> {
  start_s: number;
  buffer: Buffer;
}

export interface Timeline<Buffer extends { duration: number } = AudioBuffer> {
  segments: readonly Segment<Buffer>[];
  /** Nothing comes any more. */
  isWhole: boolean;
  /** How long it is, or is going to be. */
  duration_s: number;
}

export interface Due<Buffer extends { duration: number } = AudioBuffer> {
  buffer: Buffer;
  /** Seconds from now. */
  after_s: number;
  /** Where in the buffer it begins. */
  offset_s: number;
}

/** Return where what is there ends: pieces that lie without a gap from the beginning. */
export function reach_s<B extends { duration: number }>(timeline: Timeline<B>): number {
  let end_s = 0;
  for (const one of timeline.segments) {
    if (one.start_s > end_s + 0.01) break;
    end_s = Math.max(end_s, one.start_s + one.buffer.duration);
  }
  return end_s;
}

/** Return what is to be played, and when, if it is begun at `position_s` now. */
export function due<B extends { duration: number }>(
  timeline: Timeline<B>,
  position_s: number,
): Due<B>[] {
  const end_s = reach_s(timeline);
  return timeline.segments
    .filter((one) => one.start_s < end_s && one.start_s + one.buffer.duration > position_s)
    .map((one) => ({
      buffer: one.buffer,
      after_s: Math.max(one.start_s - position_s, 0),
      offset_s: Math.max(position_s - one.start_s, 0),
    }));
}

/** Add a piece where it belongs; the same piece again changes nothing. */
export function withSegment<B extends { duration: number }>(
  timeline: Timeline<B>,
  segment: Segment<B>,
): Timeline<B> {
  if (timeline.segments.some((one) => Math.abs(one.start_s - segment.start_s) < 0.01)) {
    return timeline;
  }
  const segments = [...timeline.segments, segment].sort((a, b) => a.start_s - b.start_s);
  const end_s = segment.start_s + segment.buffer.duration;
  return { ...timeline, segments, duration_s: Math.max(timeline.duration_s, end_s) };
}

/** The outline of what is there: the largest magnitude in each of `num` columns of the whole. */
export function outline(timeline: Timeline, num: number): number[] {
  const columns = new Array<number>(num).fill(0);
  for (const { start_s, buffer } of timeline.segments) {
    const samples = buffer.getChannelData(0);
    const perColumn = (timeline.duration_s * buffer.sampleRate) / num;
    const first = start_s * buffer.sampleRate;
    // every 8th sample is enough for a picture of this size
    for (let i = 0; i < samples.length; i += 8) {
      const column = Math.min(Math.floor((first + i) / perColumn), num - 1);
      const value = Math.abs(samples[i] ?? 0);
      if (value > (columns[column] ?? 0)) columns[column] = value;
    }
  }
  return columns;
}
