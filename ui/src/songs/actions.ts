// What people do with songs; whatever goes wrong is said once, in their language.

import { Away, type Client, Refused } from "../api/client";
import type { Created, Format, NewSong, Song } from "../api/types";
import { note } from "../shell/notes";
import type { Listening } from "../sound/listening";
import { served } from "../words/served";
import { say } from "../words/words";
import type { Songs } from "./store";

/** How long a deleted song can be had back. */
const UNDO_MS = 6_000;

/** What an error says to people. */
export function told(error: unknown): string {
  if (error instanceof Refused) return served(error.detail, say);
  return error instanceof Away ? say("error.away") : say("error.unknown");
}

export class Actions {
  private readonly leaving = new Map<string, ReturnType<typeof setTimeout>>();
  /** What was sent last without an answer: sent again, it is the same order. */
  private unanswered: { body: string; key: string } | null = null;

  constructor(
    private readonly client: Client,
    private readonly songs: Songs,
    private readonly listening: Listening,
  ) {
    addEventListener("pagehide", () => this.leave());
  }

  /** Ask for songs; throws what the service says against them. */
  async create(request: NewSong): Promise<Song[]> {
    const body = JSON.stringify(request);
    const key = this.unanswered?.body === body ? this.unanswered.key : crypto.randomUUID();
    this.unanswered = { body, key };
    const { songs } = await this.client.create(request, key);
    this.unanswered = null;
    return this.taken(songs);
  }

  /** The same once more, where nobody types: what goes wrong is a note. */
  async createSimply(request: NewSong): Promise<Song[]> {
    return (await this.trying(() => this.create(request))) ?? [];
  }

  async variants(song: Song, n: number): Promise<Song[]> {
    const key = crypto.randomUUID();
    const ask = (): Promise<Created> => this.client.variants(song.id, n, song.levels_wanted, key);
    const made = await this.trying(ask);
    return this.taken(made?.songs ?? []);
  }

  async import(files: readonly File[]): Promise<Song[]> {
    const all: Song[] = [];
    for (const file of files) {
      const title = file.name.replace(/\.[^.]*$/, "").slice(0, 200);
      const made = await this.trying(() => this.client.import(file, title));
      if (made) all.push(...this.taken(made.songs));
    }
    if (all.length > 0) note(say("import.taken", { n: all.length }));
    return all;
  }

  pause(song: Song): Promise<void> {
    if (song.state === "working") this.songs.stopping(song.id, "pause");
    return this.changing(() => this.client.act(song.id, "pause"));
  }

  cancel(song: Song): Promise<void> {
    if (song.state === "working") this.songs.stopping(song.id, "cancel");
    return this.changing(() => this.client.act(song.id, "cancel"));
  }

  resume(song: Song): Promise<void> {
    return this.changing(() => this.client.act(song.id, "resume"));
  }

  refine(song: Song, levels: number): Promise<void> {
    return this.changing(() => this.client.refine(song.id, levels));
  }

  rename(song: Song, title: string): Promise<void> {
    return this.changing(() => this.client.change(song.id, { title }));
  }

  keep(song: Song, kept: boolean): Promise<void> {
    this.songs.merge([{ ...song, kept }]);
    return this.changing(() => this.client.change(song.id, { kept }), song);
  }

  /** Delete a song: it is gone from sight at once, and for good after some seconds. */
  remove(song: Song): void {
    if (this.listening.get().song === song.id) this.listening.stop();
    this.songs.hide(song.id);
    this.leaving.set(song.id, setTimeout(() => void this.removeNow(song.id), UNDO_MS));
    note(say("delete.done", { title: song.title }), {
      action: { label: say("undo"), run: () => this.bringBack(song.id) },
      lasts_ms: UNDO_MS,
    });
  }

  async download(song: Song, format: Format | "khala", levels: number | null): Promise<void> {
    const of = levels === null ? "" : `&levels=${levels}`;
    const path =
      format === "khala"
        ? `/v1/songs/${song.id}/file`
        : `/v1/songs/${song.id}/audio?format=${format}&download=true${of}`;
    const file = await this.trying(() => this.client.file(path));
    if (file === undefined) return;
    const url = URL.createObjectURL(file.data);
    const link = document.createElement("a");
    link.href = url;
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  private bringBack(id: string): void {
    clearTimeout(this.leaving.get(id));
    if (this.leaving.delete(id)) this.songs.unhide(id);
  }

  private async removeNow(id: string): Promise<void> {
    this.leaving.delete(id);
    try {
      await this.client.remove(id);
    } catch (error) {
      if (!(error instanceof Refused && error.status === 404)) {
        this.songs.unhide(id);
        note(told(error), { tone: "bad" });
        return;
      }
    }
    this.songs.forget(id);
    this.listening.sounds.forget(id);
  }

  /** Whoever closes the tab wants what was deleted to be gone. */
  private leave(): void {
    for (const [id, timer] of this.leaving) {
      clearTimeout(timer);
      void this.client.remove(id, true).catch(() => {});
    }
    this.leaving.clear();
  }

  private taken(songs: Song[]): Song[] {
    this.songs.merge(songs);
    return songs;
  }

  private async changing(change: () => Promise<Song>, before?: Song): Promise<void> {
    const changed = await this.trying(change);
    if (changed !== undefined) this.songs.merge([changed]);
    else if (before !== undefined) this.songs.merge([before]);
  }

  private async trying<T>(ask: () => Promise<T>): Promise<T | undefined> {
    try {
      return await ask();
    } catch (error) {
      note(told(error), { tone: "bad" });
      return undefined;
    }
  }
}
