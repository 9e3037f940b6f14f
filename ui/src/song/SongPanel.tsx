import { useEffect, useRef, useState } from "react";
import { heardLevels, isLive, type Song } from "../api/types";
import { Cover } from "../library/Cover";
import { Sharpness } from "../player/Sharpness";
import { useOutline } from "../player/useOutline";
import { Waveform } from "../player/Waveform";
import { Icon } from "../shell/Icon";
import { useHeard, useLibrary, usePosition, useSong, useStudio } from "../shell/studio";
import { served } from "../words/served";
import { clock, when } from "../words/time";
import { useLanguage, useWords } from "../words/words";
import { type Draft, fromSong } from "../write/draft";
import { Downloads } from "./Downloads";
import { Making } from "./Making";
import { Picture } from "./Picture";
import { Sharpen } from "./Sharpen";
import { Title } from "./Title";
import { Variants } from "./Variants";
import { Words } from "./Words";

interface Props {
  id: string;
  onClose(): void;
  onOpen(id: string): void;
  onReuse(draft: Draft): void;
}

/** Everything of one song. */
export function SongPanel({ id, onClose, onOpen, onReuse }: Props) {
  const say = useWords();
  const { songs } = useStudio();
  const { status, hidden, connection } = useLibrary();
  const song = useSong(id);
  const panel = useRef<HTMLElement>(null);
  const isGone = hidden.has(id);

  useEffect(() => {
    if (status === "ready" && songs.song(id) === undefined) void songs.read(id);
  }, [songs, id, status, connection]);

  useEffect(() => {
    if (isGone) onClose();
  }, [isGone, onClose]);

  useEffect(() => {
    panel.current?.focus({ preventScroll: true });
    panel.current?.scrollTo(0, 0);
  }, [id]);

  return (
    <article
      ref={panel}
      className="panel"
      tabIndex={-1}
      aria-label={say("song")}
      onKeyDown={(event) => event.key === "Escape" && onClose()}
    >
      <button type="button" className="icon panel-close" aria-label={say("song.close")} onClick={onClose}>
        <Icon name="close" />
      </button>
      {song === undefined ? (
        <p className="quiet hint">{say(status === "ready" ? "song.missing" : "loading")}</p>
      ) : (
        <Inside key={song.id} song={song} onOpen={onOpen} onReuse={onReuse} />
      )}
    </article>
  );
}

function Inside({ song, onOpen, onReuse }: { song: Song } & Pick<Props, "onOpen" | "onReuse">) {
  const say = useWords();
  const language = useLanguage();
  const { actions } = useStudio();
  const isRecording = song.request.prompt === "" && song.request.lyrics === "";
  return (
    <>
      <header className="panel-head">
        <Cover id={song.id} family={song.family} />
        <div className="panel-title">
          <Title song={song} />
          <p className="quiet">
            {[
              song.duration === null ? null : clock(song.duration),
              when(song.created_at, language, new Date(), say("today")),
              song.model,
            ].filter(Boolean).join(" · ")}
          </p>
        </div>
      </header>
      <Making song={song} />
      {song.notices.map((one) => (
        <p key={one.code + one.message} className="notice">{served(one.message, say)}</p>
      ))}
      <Listen song={song} />
      {!isLive(song) && song.levels > 0 && <Sharpen song={song} />}
      {!isRecording && <Variants song={song} onOpen={onOpen} />}
      <Words song={song} onReuse={() => onReuse(fromSong(song.request, titleOf(song)))} />
      {song.has_plot && <Picture song={song} />}
      <Downloads song={song} />
      <div className="panel-end">
        <button
          type="button"
          className="plain"
          aria-pressed={song.kept}
          onClick={() => void actions.keep(song, !song.kept)}
        >
          <Icon name="star" isFilled={song.kept} />
          {say(song.kept ? "kept" : "keep.short")}
        </button>
        <button type="button" className="plain danger" onClick={() => actions.remove(song)}>
          <Icon name="trash" />
          {say("delete")}
        </button>
      </div>
    </>
  );
}

/** A title that somebody gave, not the first line that stands in for one. */
function titleOf(song: Song): string {
  return song.request.lyrics.includes(song.title) || song.request.prompt === song.title ? "" : song.title;
}

function Listen({ song }: { song: Song }) {
  const say = useWords();
  const { listening } = useStudio();
  const heard = useHeard();
  const isHeard = heard.song === song.id;
  const position_s = usePosition(isHeard);
  const { peaks, duration_s } = useOutline(song);
  const [hasListened, setListened] = useState(localStorage.getItem("khala-heard") !== null);
  const there = heardLevels(song);
  const canPlay = there.length > 0 || song.pieces > 0 || isLive(song);
  const isOn = isHeard && heard.playing !== "paused";
  if (!canPlay) return null;
  const isRough = isHeard ? (heard.levels ?? 2) <= 2 : (there.at(-1) ?? 0) <= 2;
  return (
    <section className="listen" aria-label={say("listen")}>
      <div className="listen-row">
        <button
          type="button"
          className="play"
          aria-label={say(isOn ? "pause.song" : "play.song", { title: song.title })}
          onClick={() => listening.toggle(song.id)}
        >
          <Icon name={isOn ? "pause" : "play"} isFilled={!isOn} />
        </button>
        <Waveform
          peaks={peaks}
          duration_s={duration_s}
          position_s={isHeard ? position_s : 0}
          height={64}
          label={say("listen.position", { title: song.title })}
          onSeek={(at_s) => listening.seek(song.id, at_s)}
        />
      </div>
      {there.length > 0 && (
        <div className="listen-levels">
          <span className="quiet">{say("levels")}</span>
          <Sharpness song={song} />
        </div>
      )}
      {isRough && (
        <p className="quiet rough">{say(isLive(song) ? "sketch.note" : "sketch.only")}</p>
      )}
      {!hasListened && isHeard && (
        <p className="quiet first">
          {say("honest")}{" "}
          <button
            type="button"
            className="link"
            onClick={() => {
              localStorage.setItem("khala-heard", "yes");
              setListened(true);
            }}
          >
            {say("understood")}
          </button>
        </p>
      )}
    </section>
  );
}
