import { useEffect, useRef, useState } from "react";
import type { Filter } from "../api/client";
import type { Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { useHeard, useLibrary, useStudio } from "../shell/studio";
import { letterOf, listed } from "../songs/state";
import { useWords } from "../words/words";
import { Choice } from "../write/fields";
import type { Example } from "../write/examples";
import { EmptyStudio } from "./EmptyStudio";
import { SongRow } from "./SongRow";

interface Props {
  open: string | null;
  onOpen(id: string): void;
  onExample(example: Example): void;
}

const SHOWS = ["all", "kept", "making", "failed"] as const;

export function Library({ open, onOpen, onExample }: Props) {
  const say = useWords();
  const { songs } = useStudio();
  const library = useLibrary();
  const heard = useHeard();
  const [words, setWords] = useState("");
  const { known, filter, oldest, hidden, status, cursor } = library;
  const list = listed(known, filter, oldest, hidden);
  const letters = lettersOf(list);
  const isFiltered = filter.words.trim() !== "" || filter.show !== "all";
  const isEmpty = list.length === 0 && status === "ready";

  const look = (change: Partial<Filter>): void => void songs.look({ ...filter, ...change });
  const first = useRef(true);
  useEffect(() => {
    if (first.current) {
      first.current = false;
      return;
    }
    const timer = setTimeout(() => void songs.look({ ...songs.get().filter, words }), 200);
    return () => clearTimeout(timer);
  }, [songs, words]);

  if (isEmpty && !isFiltered && words === "") return <EmptyStudio onExample={onExample} />;
  return (
    <section className="library" aria-label={say("library")}>
      <div className="library-head">
        <h2 className="unseen">{say("library")}</h2>
        <label className="search">
          <Icon name="search" />
          <span className="unseen">{say("search")}</span>
          <input
            type="search"
            id="search"
            value={words}
            placeholder={say("search")}
            maxLength={200}
            onChange={(event) => setWords(event.target.value)}
            onKeyDown={(event) => event.key === "Escape" && setWords("")}
          />
        </label>
        <Choice
          label={say("show")}
          isLabelHidden
          value={filter.show}
          options={SHOWS.map((one) => ({ value: one, label: say(`show.${one}`) }))}
          onChange={(show) => look({ show })}
        />
      </div>
      {status === "loading" && list.length === 0 && <p className="quiet hint">{say("loading")}</p>}
      {status === "away" && list.length === 0 && <p className="quiet hint">{say("error.away")}</p>}
      {isEmpty && <p className="quiet hint">{say("library.nothing")}</p>}
      <ul className="rows">
        {list.map((song) => (
          <SongRow
            key={song.id}
            song={song}
            letter={letters.get(song.id) ?? ""}
            isOpen={song.id === open}
            isHeard={song.id === heard.song}
            isPlaying={song.id === heard.song && heard.playing !== "paused"}
            onOpen={onOpen}
          />
        ))}
      </ul>
      {cursor !== null && (
        <button type="button" className="plain more" onClick={() => void songs.more().catch(() => {})}>
          {say("library.more")}
        </button>
      )}
    </section>
  );
}

/** Songs of one request look alike: those that are listed are told apart as beside each other. */
function lettersOf(list: readonly Song[]): Map<string, string> {
  const families = new Map<string, string[]>();
  for (const song of [...list].reverse()) {
    families.set(song.family, [...(families.get(song.family) ?? []), song.id]);
  }
  const several = [...families.values()].filter((ids) => ids.length > 1);
  return new Map(several.flatMap((ids) => ids.map((id, i) => [id, letterOf(i)] as const)));
}
