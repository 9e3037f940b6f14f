// The songs this tab knows: read once, kept true by events, and told to whoever listens.

import type { Client, Filter } from "../api/client";
import { EventStream, type Connection } from "../api/stream";
import type { Model, Owner, Song } from "../api/types";
import {
  type Known, listed, milestone, type Milestone, needsReading, nothing, withEvent, withSongs,
  withoutSong,
} from "./state";

export interface Library {
  known: Known;
  filter: Filter;
  /** Where the list goes on; null: it is whole. */
  cursor: string | null;
  /** The last song that was read for the list; null: it is whole. */
  oldest: Song | null;
  hidden: ReadonlySet<string>;
  status: "loading" | "ready" | "away";
  /** How often everything was read anew. */
  epoch: number;
  connection: Connection;
  models: Model[];
  owner: Owner | null;
  /** Songs that were asked to stop and have not yet. */
  stopping: Readonly<Record<string, "pause" | "cancel">>;
}

const PAGE = 50;

/** A song that changes again and again is read no more often. */
const READ_EVERY_MS = 250;

export class Songs {
  private library: Library = {
    known: nothing, filter: { words: "", show: "all" }, cursor: null, oldest: null,
    hidden: new Set(), status: "loading", epoch: 0,
    connection: "connecting", models: [], owner: null,
    stopping: {},
  };
  private readonly listeners = new Set<() => void>();
  private readonly reading = new Set<string>();
  private readonly readAgain = new Set<string>();
  private readonly stream: EventStream;
  private queueTimer: ReturnType<typeof setTimeout> | undefined;
  private round = 0;

  onMilestone: (song: Song, what: Milestone) => void = () => {};

  constructor(
    readonly client: Client,
    isNeeded: () => boolean,
  ) {
    this.stream = new EventStream(
      client,
      {
        onEvent: (type, data) => this.take(type, data),
        onConnection: (connection) => this.set({ connection }),
        onGap: () => void this.refresh(),
      },
      isNeeded,
    );
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly get = (): Library => this.library;

  start(): void {
    this.stream.start();
  }

  stop(): void {
    this.stream.stop();
    clearTimeout(this.queueTimer);
  }

  song(id: string | null): Song | undefined {
    return id === null ? undefined : this.library.known.songs[id];
  }

  // ------------------------------------------------------------------------------------- read

  /** Read everything that is shown again. */
  async refresh(): Promise<void> {
    const round = ++this.round;
    const { filter } = this.library;
    const num = listed(this.library.known, filter, this.library.oldest, new Set()).length;
    try {
      const [page, models, owner] = await Promise.all([
        this.client.songs(filter, Math.min(Math.max(num, PAGE), 200), null),
        this.client.models(),
        this.client.me(),
      ]);
      if (round !== this.round) return;
      // what is gone from the service is gone from here, too
      const known = { ...withSongs(nothing, page.songs), pieces: this.library.known.pieces };
      this.set({
        known, models, owner, cursor: page.next, oldest: lastOf(page.songs, page.next),
        status: "ready", epoch: this.library.epoch + 1,
      });
    } catch {
      if (round === this.round) this.set({ status: "away" });
    }
  }

  async look(filter: Filter): Promise<void> {
    const round = ++this.round;
    this.set({ filter, cursor: null, oldest: null, status: "loading" });
    try {
      const page = await this.client.songs(filter, PAGE, null);
      if (round === this.round) this.show(page.songs, page.next);
    } catch {
      if (round === this.round) this.set({ status: "away" });
    }
  }

  async more(): Promise<void> {
    const { filter, cursor } = this.library;
    if (cursor === null) return;
    const round = ++this.round;
    const page = await this.client.songs(filter, PAGE, cursor);
    if (round === this.round) this.show(page.songs, page.next);
  }

  private show(songs: Song[], next: string | null): void {
    const known = withSongs(this.library.known, songs);
    this.set({ known, cursor: next, oldest: lastOf(songs, next), status: "ready" });
  }

  /** Read one song; while it is read it is not read twice. */
  async read(id: string): Promise<void> {
    if (this.reading.has(id)) {
      this.readAgain.add(id);
      return;
    }
    this.reading.add(id);
    try {
      this.merge([await this.client.song(id)]);
    } catch {
      // it is gone, or the connection is: both are told by the stream
    }
    setTimeout(() => {
      this.reading.delete(id);
      if (this.readAgain.delete(id)) void this.read(id);
    }, READ_EVERY_MS);
  }

  async readFamily(family: string): Promise<void> {
    try {
      this.merge((await this.client.family(family)).songs);
    } catch {
      // variants are shown when the connection is back
    }
  }

  // ----------------------------------------------------------------------------------- change

  merge(songs: Song[]): void {
    for (const song of songs) this.tell(this.library.known.songs[song.id], song);
    this.set({ known: withSongs(this.library.known, songs) });
  }

  hide(id: string): void {
    this.set({ hidden: new Set([...this.library.hidden, id]) });
  }

  unhide(id: string): void {
    const hidden = new Set(this.library.hidden);
    hidden.delete(id);
    this.set({ hidden });
  }

  forget(id: string): void {
    this.set({ known: withoutSong(this.library.known, id) });
    this.unhide(id);
  }

  stopping(id: string, what: "pause" | "cancel"): void {
    this.set({ stopping: { ...this.library.stopping, [id]: what } });
  }

  private take(type: string, data: Record<string, unknown>): void {
    const id = String(data["song"]);
    const before = this.library.known.songs[id];
    const isToRead = needsReading(this.library.known, type, data);
    const known = withEvent(this.library.known, type, data);
    const after = known.songs[id];
    if (after !== undefined) this.tell(before, after);
    this.set({ known });
    if (isToRead) void this.read(id);
    if (before?.state === "queued" && after?.state !== "queued") this.readQueue();
    if (this.library.models.length === 0 && data["state"] === "working") void this.readModels();
  }

  private async readModels(): Promise<void> {
    this.set({ models: await this.client.models().catch(() => []) });
  }

  /** When a song leaves the queue, the others come nearer. */
  private readQueue(): void {
    const others = Object.values(this.library.known.songs).filter((one) => one.state === "queued");
    if (others.length === 0 || this.queueTimer !== undefined) return;
    this.queueTimer = setTimeout(() => {
      this.queueTimer = undefined;
      this.client.queued().then((page) => this.merge(page.songs)).catch(() => {});
    }, 500);
  }

  private tell(before: Song | undefined, after: Song): void {
    if (after.state !== "working" && after.id in this.library.stopping) {
      const { [after.id]: _done, ...stopping } = this.library.stopping;
      this.set({ stopping });
    }
    const what = milestone(before, after);
    if (what !== null) this.onMilestone(after, what);
  }

  private set(change: Partial<Library>): void {
    this.library = { ...this.library, ...change };
    for (const listener of this.listeners) listener();
  }
}

function lastOf(songs: Song[], next: string | null): Song | null {
  return next === null ? null : (songs.at(-1) ?? null);
}
