// One open stream of events, begun again where it ended. Nothing is asked for at intervals.

import { type Client, Refused } from "./client";
import { EventParser, type ServerEvent } from "./sse";

export type Connection = "connecting" | "open" | "lost" | "resting";

export interface Listener {
  onEvent(type: string, data: Record<string, unknown>): void;
  onConnection(state: Connection): void;
  /** What happened meanwhile is not known: everything is to be read again. */
  onGap(): void;
}

/** The service sends a comment every 15 seconds; after so long without any the line is dead. */
const SILENCE_MS = 40_000;

/** A tab that nobody sees gives its connection back: browsers have six for one service. */
const HIDDEN_MS = 60_000;

const LONGEST_WAIT_MS = 15_000;

/** Events are kept for a day; after a longer absence some may be gone. */
const KEPT_MS = 20 * 3_600_000;

export class EventStream {
  private last: string | null = null;
  private seenAt = 0;
  private tries = 0;
  private abort: AbortController | null = null;
  private wake: (() => void) | null = null;
  private hiddenTimer: ReturnType<typeof setTimeout> | undefined;
  private isResting = false;
  private isOver = false;

  constructor(
    private readonly client: Client,
    private readonly listener: Listener,
    /** Whether a hidden tab still needs to know at once what happens. */
    private readonly isNeeded: () => boolean,
  ) {}

  start(): void {
    document.addEventListener("visibilitychange", this.onVisibility);
    window.addEventListener("online", this.hurry);
    window.addEventListener("offline", this.drop);
    void this.run();
  }

  stop(): void {
    this.isOver = true;
    clearTimeout(this.hiddenTimer);
    document.removeEventListener("visibilitychange", this.onVisibility);
    window.removeEventListener("online", this.hurry);
    window.removeEventListener("offline", this.drop);
    this.abort?.abort();
    this.wake?.();
  }

  private readonly hurry = (): void => {
    this.tries = 0;
    this.wake?.();
  };

  private readonly drop = (): void => this.abort?.abort();

  private readonly onVisibility = (): void => {
    clearTimeout(this.hiddenTimer);
    if (document.hidden) {
      this.hiddenTimer = setTimeout(() => this.rest(), HIDDEN_MS);
    } else {
      this.isResting = false;
      this.hurry();
    }
  };

  private rest(): void {
    if (this.isNeeded()) {
      this.hiddenTimer = setTimeout(() => this.rest(), HIDDEN_MS);
      return;
    }
    this.isResting = true;
    this.abort?.abort();
  }

  private async run(): Promise<void> {
    while (!this.isOver) {
      if (this.tries === 0) this.listener.onConnection("connecting");
      try {
        await this.listen();
      } catch (error) {
        if (error instanceof Refused && error.status === 401) return;
      }
      if (this.isOver) return;
      this.listener.onConnection(this.isResting ? "resting" : "lost");
      await this.wait();
    }
  }

  private wait(): Promise<void> {
    const longest_ms = Math.min(500 * 2 ** this.tries, LONGEST_WAIT_MS);
    const wait_ms = longest_ms * (0.75 + 0.25 * Math.random());
    this.tries += 1;
    return new Promise((resolve) => {
      const timer = this.isResting ? undefined : setTimeout(() => this.wake?.(), wait_ms);
      this.wake = () => {
        clearTimeout(timer);
        this.wake = null;
        resolve();
      };
    });
  }

  private async listen(): Promise<void> {
    const abort = new AbortController();
    this.abort = abort;
    let watch = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const answer = await this.client.events(this.last, abort.signal);
      const reader = answer.body?.getReader();
      if (reader === undefined) return;
      const decoder = new TextDecoder();
      const parser = new EventParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done || this.isOver) return;
        clearTimeout(watch);
        watch = setTimeout(() => abort.abort(), SILENCE_MS);
        for (const event of parser.push(decoder.decode(value, { stream: true }))) this.take(event);
        this.seenAt = Date.now();
      }
    } finally {
      clearTimeout(watch);
      abort.abort();
    }
  }

  private take(event: ServerEvent): void {
    if (event.type === "hello") {
      const isKnown = event.id === this.last && Date.now() - this.seenAt < KEPT_MS;
      this.last = event.id;
      this.tries = 0;
      this.listener.onConnection("open");
      if (!isKnown) this.listener.onGap();
      return;
    }
    if (event.id !== null) this.last = event.id;
    this.listener.onEvent(event.type, JSON.parse(event.data) as Record<string, unknown>);
  }
}
