// What is listened to: which song, with how many levels; it gets sharper while it plays.

import { heardLevels, isLive, type Song } from "../api/types";
import type { Songs } from "../songs/store";
import { Player, type Playing } from "./player";
import type { Sounds } from "./sounds";
import { type Timeline, withSegment } from "./timeline";

/** Levels to listen to; "best": the most there are, always. */
export type Choice = number | "best";

export interface Heard {
  song: string | null;
  choice: Choice;
  /** Levels that sound now; 0: pieces of a sketch that is still written. */
  levels: number | null;
  playing: Playing;
  duration_s: number;
  isLoading: boolean;
  isWhole: boolean;
  /** Parts of the sound that are there. */
  parts: number;
  jumps: number;
  failed: boolean;
  volume: number;
}

const VOLUME_KEY = "khala-volume";

export class Listening {
  readonly player = new Player();
  private heard: Heard = {
    song: null, choice: "best", levels: null, playing: "paused", duration_s: 0, isLoading: false,
    isWhole: false, parts: 0, jumps: 0, failed: false, volume: readVolume(),
  };
  private readonly listeners = new Set<() => void>();
  /** What is being fetched; what comes after another was wanted is dropped. */
  private wanted = 0;
  private loading: string | null = null;
  private pieces = new Set<number>();

  constructor(
    private readonly songs: Songs,
    readonly sounds: Sounds,
  ) {
    this.player.setVolume(this.heard.volume);
    this.player.onChange = () => this.told();
    songs.subscribe(() => this.follow());
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly get = (): Heard => this.heard;

  get position_s(): number {
    return this.player.position_s;
  }

  // -------------------------------------------------------------------------------- for people

  /** Play a song from its beginning, or go on with the one that is there. */
  play(id: string): void {
    this.player.unlock();
    if (this.heard.song === id && this.player.sound !== null) {
      this.player.play();
      return;
    }
    this.begin(id, 0, true);
  }

  toggle(id: string | null = this.heard.song): void {
    if (id === null) return;
    const isOn = this.heard.song === id && this.heard.playing !== "paused";
    if (isOn) this.pause();
    else this.play(id);
  }

  pause(): void {
    this.isToPlay = false;
    this.player.pause();
  }

  seek(id: string, position_s: number): void {
    if (this.heard.song === id && this.player.sound !== null) {
      this.player.seek(position_s);
    } else {
      this.player.unlock();
      this.begin(id, position_s, true);
    }
  }

  nudge(by_s: number): void {
    if (this.heard.song !== null) this.player.seek(this.player.position_s + by_s);
  }

  /** Hear another song from where this one is: for songs of one request. */
  compare(id: string): void {
    if (id === this.heard.song) {
      this.toggle(id);
      return;
    }
    const isOn = this.heard.playing !== "paused";
    this.player.unlock();
    this.begin(id, this.player.position_s, isOn || this.heard.song === null, true);
  }

  /** Have songs ready, so that it takes no time to change between them. */
  prepare(songs: readonly Song[]): void {
    for (const song of songs.slice(0, 6)) {
      const best = heardLevels(song).at(-1);
      if (best !== undefined) void this.sounds.song(song.id, best).catch(() => {});
    }
  }

  choose(choice: Choice): void {
    this.set({ choice });
    this.follow();
  }

  setVolume(volume: number): void {
    localStorage.setItem(VOLUME_KEY, String(volume));
    this.player.setVolume(volume);
    this.set({ volume });
  }

  stop(): void {
    this.wanted += 1;
    this.loading = null;
    this.player.put(null, 0);
    this.set({ song: null, levels: null, isLoading: false, failed: false });
  }

  // ---------------------------------------------------------------------------------- the rest

  private isToPlay = false;

  /** @param keeps the old sound is heard until the new one is there */
  private begin(id: string, position_s: number, plays: boolean, keeps = false): void {
    this.wanted += 1;
    this.loading = null;
    this.pieces = new Set();
    this.isToPlay = plays;
    this.position = position_s;
    this.follows = keeps;
    if (!keeps) this.player.put(null, 0);
    const choice = keeps ? this.heard.choice : "best";
    this.set({ song: id, choice, levels: null, failed: false, isLoading: true });
    this.follow();
  }

  private position: number | null = null;
  private follows = false;

  /** Bring what is heard to what there is of the song. */
  private follow(): void {
    const { song: id, choice, levels } = this.heard;
    if (id === null) return;
    const song = this.songs.song(id);
    if (song === undefined) {
      if (this.songs.get().status === "ready") void this.find(id);
      return;
    }
    const there = heardLevels(song);
    const best = there.at(-1);
    if (best === undefined) {
      if (isLive(song) || song.pieces > 0) this.followPieces(song);
      else if (song.state !== "queued") this.set({ isLoading: false });
      return;
    }
    const target = choice !== "best" && there.includes(choice) ? choice : best;
    const key = `${id}/${target}`;
    if (target === levels && this.loading === null) return;
    if (this.loading === key) return;
    this.loading = key;
    void this.load(id, target, ++this.wanted);
  }

  private finding: string | null = null;

  /** Look for a song that is not in the list: an old one, or one that is gone. */
  private async find(id: string): Promise<void> {
    if (this.finding === id) return;
    this.finding = id;
    await this.songs.read(id);
    this.finding = null;
    const isGone = this.songs.song(id) === undefined && this.songs.get().connection === "open";
    if (isGone && this.heard.song === id && !this.isInUse()) this.stop();
  }

  private isInUse(): boolean {
    return this.heard.playing !== "paused" || this.loading !== null;
  }

  private async load(id: string, levels: number, wanted: number): Promise<void> {
    this.set({ isLoading: true, failed: false });
    try {
      const buffer = await this.sounds.song(id, levels);
      if (wanted !== this.wanted) return;
      this.loading = null;
      const timeline = {
        segments: [{ start_s: 0, buffer }], isWhole: true, duration_s: buffer.duration,
      };
      this.put(timeline, levels);
    } catch {
      if (wanted !== this.wanted) return;
      this.loading = null;
      // it may have become another one meanwhile; then the list says so, and this is tried again
      this.set({ isLoading: false, failed: this.heard.levels === null });
    }
  }

  private put(timeline: Timeline, levels: number): void {
    const at_s = this.follows ? this.player.position_s : (this.position ?? undefined);
    this.position = null;
    this.follows = false;
    this.set({ levels, isLoading: false });
    this.player.put(timeline, at_s);
    if (this.isToPlay) {
      this.isToPlay = false;
      if (this.player.state === "paused") this.player.play();
    }
  }

  /** Fetch pieces of a sketch that is being written, each once. */
  private followPieces(song: Song): void {
    const told = this.songs.get().known.pieces[song.id] ?? [];
    const num = Math.max(song.pieces, ...told.map((one) => one.number + 1));
    if (this.heard.levels === null && num > 0) {
      const timeline = { segments: [], isWhole: false, duration_s: song.request.duration ?? 30 };
      this.put(timeline, 0);
    }
    for (let number = 0; number < num; number += 1) {
      if (!this.pieces.has(number)) {
        this.pieces.add(number);
        void this.loadPiece(song.id, number, told.find((one) => one.number === number)?.start_s);
      }
    }
  }

  private async loadPiece(id: string, number: number, start_s: number | undefined): Promise<void> {
    try {
      const buffer = await this.sounds.piece(id, number);
      const start = start_s ?? (await this.startOf(id, number));
      const { sound } = this.player;
      if (this.heard.song !== id || this.heard.levels !== 0 || sound === null) return;
      this.player.grow(withSegment(sound, { start_s: start, buffer }));
    } catch {
      // the whole sketch took its place: it is heard from now on
    }
  }

  /** Where a piece begins that was written before this tab listened: after those before it. */
  private async startOf(id: string, number: number): Promise<number> {
    let start_s = 0;
    for (let before = 0; before < number; before += 1) {
      start_s += (await this.sounds.piece(id, before)).duration;
    }
    return start_s;
  }

  private told(): void {
    const { sound, state } = this.player;
    this.set({
      playing: state, duration_s: sound?.duration_s ?? 0, isWhole: sound?.isWhole ?? false,
      parts: sound?.segments.length ?? 0, jumps: this.player.jumps,
    });
  }

  private set(change: Partial<Heard>): void {
    const isSame = Object.entries(change).every(
      ([name, value]) => this.heard[name as keyof Heard] === value,
    );
    if (isSame) return;
    this.heard = { ...this.heard, ...change };
    for (const listener of this.listeners) listener();
  }
}

function readVolume(): number {
  const volume = Number(localStorage.getItem(VOLUME_KEY) ?? "1");
  return volume >= 0 && volume <= 1 ? volume : 1;
}
