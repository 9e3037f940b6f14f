import { useState } from "react";
import type { Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { useStudio } from "../shell/studio";
import { useWords } from "../words/words";

/** A song's title, and a way to change it where it stands. */
export function Title({ song }: { song: Song }) {
  const say = useWords();
  const { actions } = useStudio();
  const [text, setText] = useState<string | null>(null);

  const keep = (): void => {
    if (text !== null && text.trim() !== song.title) void actions.rename(song, text.trim());
    setText(null);
  };

  if (text === null) {
    return (
      <h2>
        {song.title}{" "}
        <button type="button" className="icon small" aria-label={say("rename")} title={say("rename")} onClick={() => setText(song.title)}>
          <Icon name="pen" />
        </button>
      </h2>
    );
  }
  return (
    <form
      className="rename"
      onSubmit={(event) => {
        event.preventDefault();
        keep();
      }}
    >
      <input
        type="text"
        autoFocus
        maxLength={200}
        value={text}
        aria-label={say("title")}
        onFocus={(event) => event.target.select()}
        onChange={(event) => setText(event.target.value)}
        onBlur={keep}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          event.stopPropagation();
          setText(null);
        }}
      />
    </form>
  );
}
