// Requests: every one carries the token, and every failure is one of two kinds of error.

import type { Created, LyricsChecked, Model, NewSong, Owner, Song, SongPage, Tag } from "./types";

/** The service said no, and why. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly field: string | null,
  ) {
    super(detail);
  }
}

/** There was no answer: the connection or the service is away. */
export class Away extends Error {}

export interface Sending {
  body?: unknown;
  /** Sent as it is, instead of a body of JSON. */
  raw?: Blob;
  /** The same key is the same order, however often it is sent. */
  key?: string;
  signal?: AbortSignal;
  keepalive?: boolean;
}

export interface Filter {
  words: string;
  show: "all" | "kept" | "making" | "failed";
}

export interface File {
  data: Blob;
  name: string;
}

const STATES: Record<Filter["show"], string[]> = {
  all: [],
  kept: [],
  making: ["queued", "working", "paused"],
  failed: ["failed"],
};

export class Client {
  constructor(
    private readonly token: string,
    private readonly onNoToken: () => void,
  ) {}

  // ------------------------------------------------------------------------------------ songs

  songs(filter: Filter, limit: number, cursor: string | null): Promise<SongPage> {
    const query = new URLSearchParams({ limit: String(limit) });
    if (filter.words.trim()) query.set("q", filter.words.trim());
    if (filter.show === "kept") query.set("kept", "true");
    for (const state of STATES[filter.show]) query.append("state", state);
    if (cursor !== null) query.set("cursor", cursor);
    return this.json("GET", `/v1/songs?${query}`);
  }

  queued(): Promise<SongPage> {
    return this.json("GET", "/v1/songs?state=queued&limit=200");
  }

  family(family: string): Promise<SongPage> {
    return this.json("GET", `/v1/songs?family=${family}&limit=50`);
  }

  song(id: string): Promise<Song> {
    return this.json("GET", `/v1/songs/${id}`);
  }

  /** Ask for songs; a lost connection is tried again, and never makes two of one. */
  async create(body: NewSong, key: string): Promise<Created> {
    return insistently(() => this.json<Created>("POST", "/v1/songs", { body, key }));
  }

  variants(id: string, n: number, levels: number, key: string): Promise<Created> {
    const body = { n, levels };
    return insistently(() => this.json<Created>("POST", `/v1/songs/${id}/variants`, { body, key }));
  }

  change(id: string, body: { title?: string; kept?: boolean }): Promise<Song> {
    return this.json("PATCH", `/v1/songs/${id}`, { body });
  }

  act(id: string, what: "cancel" | "pause" | "resume"): Promise<Song> {
    return this.json("POST", `/v1/songs/${id}/${what}`);
  }

  refine(id: string, levels: number): Promise<Song> {
    return this.json("POST", `/v1/songs/${id}/refine`, { body: { levels } });
  }

  async remove(id: string, keepalive = false): Promise<void> {
    await this.send("DELETE", `/v1/songs/${id}`, { keepalive });
  }

  import(file: Blob, title: string): Promise<Created> {
    const query = new URLSearchParams({ title });
    return this.json("POST", `/v1/songs/import?${query}`, { raw: file });
  }

  // ------------------------------------------------------------------------------------ sound

  async bytes(path: string, signal?: AbortSignal): Promise<ArrayBuffer> {
    const answer = await this.send("GET", path, signal ? { signal } : {});
    return reading(answer.arrayBuffer());
  }

  peaks(id: string, levels: number): Promise<number[]> {
    return this.json("GET", `/v1/songs/${id}/peaks?levels=${levels}`);
  }

  /** Fetch something to be kept as a file. */
  async file(path: string): Promise<File> {
    const answer = await this.send("GET", path);
    const name = fileName(answer.headers.get("content-disposition") ?? "") ?? "song";
    return { data: await reading(answer.blob()), name };
  }

  // ----------------------------------------------------------------------------------- others

  me(): Promise<Owner> {
    return this.json("GET", "/v1/me");
  }

  models(): Promise<Model[]> {
    return this.json("GET", "/v1/models");
  }

  tags(): Promise<Tag[]> {
    return this.json("GET", "/v1/tags");
  }

  check(lyrics: string, duration: number | null, signal: AbortSignal): Promise<LyricsChecked> {
    return this.json("POST", "/v1/lyrics/check", { body: { lyrics, duration }, signal });
  }

  /** Open the stream of events, from after the last that was seen. */
  events(last: string | null, signal: AbortSignal): Promise<Response> {
    return this.send("GET", "/v1/events", { signal }, last === null ? {} : { "Last-Event-ID": last });
  }

  private async json<Answer>(method: string, path: string, sending?: Sending): Promise<Answer> {
    const answer = await this.send(method, path, sending);
    return reading(answer.json()) as Promise<Answer>;
  }

  private async send(
    method: string,
    path: string,
    sending: Sending = {},
    headers: Record<string, string> = {},
  ): Promise<Response> {
    const all: Record<string, string> = { Authorization: `Bearer ${this.token}`, ...headers };
    if (sending.body !== undefined) all["Content-Type"] = "application/json";
    if (sending.raw !== undefined) all["Content-Type"] = "application/octet-stream";
    if (sending.key !== undefined) all["Idempotency-Key"] = sending.key;
    const init: RequestInit = { method, headers: all, cache: "no-store", credentials: "omit" };
    if (sending.body !== undefined) init.body = JSON.stringify(sending.body);
    if (sending.raw !== undefined) init.body = sending.raw;
    if (sending.signal) init.signal = sending.signal;
    if (sending.keepalive) init.keepalive = true;
    const answer = await reading(fetch(path, init));
    if (answer.ok) return answer;
    if (answer.status === 401) this.onNoToken();
    throw await refusal(answer);
  }
}

/** Wait for something from the network; what goes wrong there is that nobody answers. */
async function reading<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Away("no answer", { cause: error });
  }
}

async function refusal(answer: Response): Promise<Refused> {
  try {
    const told = (await answer.json()) as { code: string; detail: string; field?: string | null };
    return new Refused(answer.status, told.code, told.detail, told.field ?? null);
  } catch {
    return new Refused(answer.status, "unknown", `status ${answer.status}`, null);
  }
}

/** Try three times while nobody answers. */
async function insistently<T>(ask: () => Promise<T>): Promise<T> {
  for (const wait_ms of [400, 1600]) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Away)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, wait_ms));
  }
  return ask();
}

/** The name of a file, as the service writes it (RFC 6266). */
export function fileName(disposition: string): string | null {
  const extended = /filename\*=UTF-8''([^;]+)/i.exec(disposition);
  if (extended?.[1]) {
    try {
      return decodeURIComponent(extended[1]);
    } catch {
      // the plain name will do
    }
  }
  return /filename="([^"]*)"/i.exec(disposition)?.[1] ?? null;
}
