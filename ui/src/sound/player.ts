// One player: it plays a timeline, and another can be put in its place without a break.

import { due, reach_s, type Timeline } from "./timeline";

/** Long enough that no swap clicks, short enough that nobody hears it. */
const FADE_S = 0.025;

/** Sources are begun so far ahead, that the first of them is not cut. */
const AHEAD_S = 0.02;

interface Voice {
  gain: GainNode;
  sources: AudioBufferSourceNode[];
}

export type Playing = "paused" | "playing" | "waiting";

export class Player {
  private context: AudioContext | null = null;
  private out: GainNode | null = null;
  private voice: Voice | null = null;
  private timeline: Timeline | null = null;
  /** Position at the context's time 0, while it plays. */
  private anchor_s = 0;
  private rest_s = 0;
  private status: Playing = "paused";
  private volume = 1;
  private suspendTimer: ReturnType<typeof setTimeout> | undefined;

  /** How often the position jumped: who shows it looks again. */
  jumps = 0;

  onChange: () => void = () => {};

  get state(): Playing {
    return this.status;
  }

  get sound(): Timeline | null {
    return this.timeline;
  }

  get position_s(): number {
    if (this.status !== "playing" || this.context === null) return this.rest_s;
    const position_s = this.context.currentTime - this.anchor_s;
    return Math.min(Math.max(position_s, 0), this.end_s);
  }

  private get end_s(): number {
    return this.timeline === null ? 0 : reach_s(this.timeline);
  }

  /** Sound is allowed only after somebody touched something: call this from there. */
  unlock(): void {
    const context = this.open();
    if (context.state === "suspended") void context.resume();
  }

  /** Put a sound in place of another; what plays goes on, from `position_s` or where it was. */
  put(timeline: Timeline | null, position_s?: number): void {
    const isOn = this.status !== "paused";
    // the new sound begins a moment later than now, and then the song is that much further
    const here_s = this.position_s + (this.status === "playing" ? AHEAD_S : 0);
    this.silence();
    this.timeline = timeline;
    this.rest_s = Math.max(position_s ?? here_s, 0);
    if (timeline !== null && timeline.isWhole) this.rest_s = Math.min(this.rest_s, this.end_s);
    this.jumps += 1;
    if (timeline === null) this.status = "paused";
    else if (isOn) this.sing();
    this.onChange();
  }

  /** The same sound with more of it: what is being played is not touched. */
  grow(timeline: Timeline): void {
    const before_s = this.end_s;
    this.timeline = timeline;
    if (this.status === "waiting") this.sing();
    else if (this.status === "playing") this.schedule(before_s);
    this.onChange();
  }

  play(): void {
    if (this.timeline === null) return;
    clearTimeout(this.suspendTimer);
    this.unlock();
    if (this.timeline.isWhole && this.rest_s >= this.end_s - 0.01) this.rest_s = 0;
    this.silence();
    this.sing();
    this.onChange();
  }

  pause(): void {
    this.rest_s = this.position_s;
    this.silence();
    this.status = "paused";
    // a context that runs costs a little all the time
    clearTimeout(this.suspendTimer);
    this.suspendTimer = setTimeout(() => void this.context?.suspend(), 4 * FADE_S * 1000);
    this.onChange();
  }

  seek(position_s: number): void {
    const most_s = this.timeline === null ? 0 : this.end_s;
    const wanted_s = Math.min(Math.max(position_s, 0), most_s);
    const isOn = this.status !== "paused";
    this.silence();
    this.rest_s = wanted_s;
    this.jumps += 1;
    if (isOn) this.sing();
    this.onChange();
  }

  setVolume(volume: number): void {
    this.volume = volume;
    if (this.out !== null && this.context !== null) {
      this.out.gain.setTargetAtTime(volume, this.context.currentTime, 0.01);
    }
  }

  private open(): AudioContext {
    if (this.context === null) {
      // the rate of the songs: pieces that lie side by side are not resampled one by one
      this.context = new AudioContext({ sampleRate: 44_100, latencyHint: "playback" });
      this.out = this.context.createGain();
      this.out.gain.value = this.volume;
      this.out.connect(this.context.destination);
    }
    return this.context;
  }

  /** Begin to sound at `rest_s`. */
  private sing(): void {
    const context = this.open();
    if (this.timeline === null) return;
    const gain = context.createGain();
    if (this.out !== null) gain.connect(this.out);
    const now_s = context.currentTime;
    gain.gain.setValueAtTime(0, now_s + AHEAD_S);
    gain.gain.linearRampToValueAtTime(1, now_s + AHEAD_S + FADE_S);
    this.voice = { gain, sources: [] };
    this.anchor_s = now_s + AHEAD_S - this.rest_s;
    this.status = "playing";
    this.schedule(this.rest_s);
    if (this.voice.sources.length === 0) this.rest();
  }

  /** Have everything from `from_s` on be played when it is due. */
  private schedule(from_s: number): void {
    const { context, timeline, voice } = this;
    if (context === null || timeline === null || voice === null) return;
    for (const one of due(timeline, from_s)) {
      const source = context.createBufferSource();
      source.buffer = one.buffer;
      source.connect(voice.gain);
      // a piece that comes too late begins inside, where the song is by now
      const at_s = this.anchor_s + from_s + one.after_s;
      const late_s = Math.max(context.currentTime - at_s, 0);
      if (one.offset_s + late_s >= one.buffer.duration) continue;
      source.start(Math.max(at_s, context.currentTime), one.offset_s + late_s);
      source.onended = () => this.ended(voice, source);
      voice.sources.push(source);
    }
  }

  private ended(voice: Voice, source: AudioBufferSourceNode): void {
    if (this.voice !== voice || voice.sources.at(-1) !== source) return;
    this.rest();
    this.onChange();
  }

  /** Nothing is there to be played: it is over, or the rest is not written yet. */
  private rest(): void {
    if (this.timeline === null) return;
    const isOver = this.timeline.isWhole;
    this.rest_s = this.end_s;
    this.voice = null;
    if (isOver) this.pause();
    else this.status = "waiting";
  }

  private silence(): void {
    const { context, voice } = this;
    this.voice = null;
    if (context === null || voice === null) return;
    const now_s = context.currentTime;
    voice.gain.gain.cancelScheduledValues(now_s);
    voice.gain.gain.setValueAtTime(voice.gain.gain.value, now_s + AHEAD_S);
    voice.gain.gain.linearRampToValueAtTime(0, now_s + AHEAD_S + FADE_S);
    for (const source of voice.sources) {
      source.onended = null;
      source.stop(now_s + AHEAD_S + FADE_S);
    }
  }
}
