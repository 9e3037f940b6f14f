// Sounds of songs, fetched and decoded once; the ones that were used last are kept.

import type { Client } from "../api/client";

/** Seconds of decoded sound that are kept: a second takes 350 kB. */
const KEPT_S = 600;

/** However long they are: two songs are compared. */
const KEPT_AT_LEAST = 2;

export class Sounds {
  private readonly buffers = new Map<string, Promise<AudioBuffer>>();
  private readonly lengths_s = new Map<string, number>();
  private readonly outlines = new Map<string, Promise<number[]>>();
  private decoder: OfflineAudioContext | null = null;

  constructor(private readonly client: Client) {}

  song(id: string, levels: number): Promise<AudioBuffer> {
    return this.kept(`${id}/${levels}`, `/v1/songs/${id}/audio?levels=${levels}`);
  }

  piece(id: string, number: number): Promise<AudioBuffer> {
    return this.kept(`${id}/piece/${number}`, `/v1/songs/${id}/pieces/${number}`);
  }

  /** The outline of a song's sound, to be drawn. */
  peaks(id: string, levels: number): Promise<number[]> {
    const key = `${id}/${levels}`;
    const found = this.outlines.get(key) ?? this.client.peaks(id, levels);
    this.outlines.set(key, found);
    found.catch(() => this.outlines.delete(key));
    if (this.outlines.size > 200) this.outlines.delete(this.outlines.keys().next().value ?? "");
    return found;
  }

  forget(id: string): void {
    for (const map of [this.buffers, this.lengths_s, this.outlines]) {
      for (const key of [...map.keys()]) if (key.startsWith(`${id}/`)) map.delete(key);
    }
  }

  private kept(key: string, path: string): Promise<AudioBuffer> {
    const found = this.buffers.get(key) ?? this.fetched(path);
    // a map keeps the order in which things were put: the oldest stand first
    this.buffers.delete(key);
    this.buffers.set(key, found);
    found.then(
      (buffer) => {
        this.lengths_s.set(key, buffer.duration);
        this.prune();
      },
      () => this.buffers.delete(key),
    );
    return found;
  }

  private async fetched(path: string): Promise<AudioBuffer> {
    this.decoder ??= new OfflineAudioContext(2, 1, 44_100);
    return this.decoder.decodeAudioData(await this.client.bytes(path));
  }

  private prune(): void {
    const length_s = (key: string): number => this.lengths_s.get(key) ?? 0;
    let all_s = [...this.buffers.keys()].reduce((sum, key) => sum + length_s(key), 0);
    for (const key of [...this.buffers.keys()]) {
      if (all_s <= KEPT_S || this.buffers.size <= KEPT_AT_LEAST) return;
      all_s -= length_s(key);
      this.buffers.delete(key);
      this.lengths_s.delete(key);
    }
  }
}
