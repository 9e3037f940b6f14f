// Server-sent events, read from text that comes in arbitrary parts.

export interface ServerEvent {
  id: string | null;
  type: string;
  data: string;
}

export class EventParser {
  private rest = "";
  private id: string | null = null;
  private type = "";
  private data: string[] = [];

  /** Take some text; return the events that are complete with it. */
  push(text: string): ServerEvent[] {
    const events: ServerEvent[] = [];
    this.rest += text;
    // a CR at the very end may be half of a CRLF: it waits for what follows
    const lines = this.rest.split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop() ?? "";
    for (const line of lines) {
      const event = this.line(line);
      if (event !== null) events.push(event);
    }
    return events;
  }

  private line(line: string): ServerEvent | null {
    if (line === "") return this.end();
    if (line.startsWith(":")) return null;
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.data.push(value);
    else if (name === "event") this.type = value;
    else if (name === "id" && !value.includes("\0")) this.id = value;
    return null;
  }

  private end(): ServerEvent | null {
    const { type, data } = this;
    this.type = "";
    this.data = [];
    if (data.length === 0) return null;
    return { id: this.id, type: type || "message", data: data.join("\n") };
  }
}
