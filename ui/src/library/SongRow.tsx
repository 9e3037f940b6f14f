import { memo } from "react";
import { isLive, type Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { useStudio } from "../shell/studio";
import { stageLine, shareDone } from "../song/progress";
import { clock, when } from "../words/time";
import { useLanguage, useWords } from "../words/words";
import { Cover } from "./Cover";

interface Props {
  song: Song;
  /** Of a variant; empty of a song that is alone. */
  letter: string;
  isOpen: boolean;
  isHeard: boolean;
  isPlaying: boolean;
  onOpen(id: string): void;
}

export const SongRow = memo(function SongRow({ song, letter, isOpen, isHeard, isPlaying, onOpen }: Props) {
  const say = useWords();
  const language = useLanguage();
  const { actions, listening } = useStudio();
  const canPlay = song.audio.length > 0 || song.pieces > 0 || isLive(song);
  const classes = ["row", isOpen && "open", isHeard && "heard"].filter(Boolean).join(" ");
  return (
    <li className={classes} data-song={song.id}>
      <button
        type="button"
        className="cover-button"
        disabled={!canPlay}
        aria-label={say(isPlaying ? "pause.song" : "play.song", { title: song.title })}
        onClick={() => listening.toggle(song.id)}
      >
        <Cover id={song.id} family={song.family} />
        {canPlay && <Icon name={isPlaying ? "pause" : "play"} isFilled={!isPlaying} />}
      </button>
      <button
        type="button"
        className="row-main"
        aria-expanded={isOpen}
        onClick={() => onOpen(song.id)}
      >
        <span className="row-title">
          {song.title}
          {letter !== "" && <span className="row-letter"> {letter}</span>}
        </span>
        <span className="row-about">{about(song) || say("recording")}</span>
      </button>
      <div className="row-side">
        <RowState song={song} />
        {!isLive(song) && (
          <span className="quiet row-when">{when(song.created_at, language, new Date())}</span>
        )}
      </div>
      <button
        type="button"
        className="icon star"
        aria-pressed={song.kept}
        aria-label={say("keep", { title: song.title })}
        title={say("keep.hint")}
        onClick={() => void actions.keep(song, !song.kept)}
      >
        <Icon name="star" isFilled={song.kept} />
      </button>
    </li>
  );
});

function about(song: Song): string {
  return song.request.prompt || song.request.lyrics.split("\n").find((line) => line && !line.startsWith("[")) || "";
}

function RowState({ song }: { song: Song }) {
  const say = useWords();
  if (song.state === "done") {
    return <span className="row-time">{song.duration === null ? "" : clock(song.duration)}</span>;
  }
  if (isLive(song)) {
    return (
      <span className="making">
        <span className="making-word">{stageLine(song, say)}</span>
        <span className="bar" aria-hidden="true">
          <span style={{ transform: `scaleX(${shareDone(song)})` }} />
        </span>
      </span>
    );
  }
  return <span className={`state ${song.state}`}>{say(`state.${song.state}`)}</span>;
}
