import { useEffect } from "react";
import { heardLevels, isLive } from "../api/types";
import { Cover } from "../library/Cover";
import { Icon } from "../shell/Icon";
import { useHeard, usePosition, useSong, useStudio } from "../shell/studio";
import { clock } from "../words/time";
import { useWords } from "../words/words";
import { Sharpness } from "./Sharpness";
import { useOutline } from "./useOutline";
import { Waveform } from "./Waveform";

interface Props {
  onOpen(id: string): void;
}

/** What is heard, at the bottom of everything. */
export function PlayerBar({ onOpen }: Props) {
  const say = useWords();
  const { listening } = useStudio();
  const heard = useHeard();
  const song = useSong(heard.song);
  const position_s = usePosition(heard.song !== null);
  const { peaks, duration_s } = useOutline(song);
  const title = song?.title;
  const isPlaying = heard.playing !== "paused";
  useEffect(() => {
    document.title = isPlaying && title !== undefined ? `${title} · Khala` : "Khala";
  }, [title, isPlaying]);
  if (song === undefined) return null;
  const isOn = isPlaying || heard.isLoading;
  const waits = heard.playing === "waiting" || (heard.levels === null && isLive(song));
  return (
    <section
      className="player"
      aria-label={say("player")}
      data-playing={heard.playing}
      data-levels={heard.levels ?? ""}
    >
      <button
        type="button"
        className="play"
        aria-label={say(isOn ? "pause" : "play")}
        aria-keyshortcuts="Space"
        onClick={() => listening.toggle()}
      >
        <Icon name={isOn ? "pause" : "play"} isFilled={!isOn} />
      </button>
      <button type="button" className="player-song" onClick={() => onOpen(song.id)}>
        <Cover id={song.id} family={song.family} />
        <span className="player-words">
          <span className="player-title">{song.title}</span>
          <span className="quiet player-about">
            {waits ? say("player.waits") : heard.failed ? say("player.failed") : soundLine(heard.levels, say)}
          </span>
        </span>
      </button>
      <span className="time">{clock(position_s)}</span>
      <Waveform
        peaks={peaks}
        duration_s={duration_s}
        position_s={position_s}
        height={40}
        label={say("player.position")}
        onSeek={(at_s) => listening.seek(song.id, at_s)}
      />
      <span className="time">{clock(duration_s)}</span>
      {heardLevels(song).length > 0 && <Sharpness song={song} />}
      <Volume />
    </section>
  );
}

function soundLine(levels: number | null, say: ReturnType<typeof useWords>): string {
  if (levels === null) return "";
  return levels <= 2 ? say("level.sketch.long") : say("level.long", { n: levels });
}

function Volume() {
  const say = useWords();
  const { listening } = useStudio();
  const { volume } = useHeard();
  return (
    <div className="volume">
      <button
        type="button"
        className="icon"
        aria-label={say(volume === 0 ? "unmute" : "mute")}
        onClick={() => listening.setVolume(volume === 0 ? 1 : 0)}
      >
        <Icon name={volume === 0 ? "mute" : "volume"} />
      </button>
      <input
        type="range"
        min={0}
        max={1}
        step={0.05}
        value={volume}
        aria-label={say("volume")}
        style={{ "--at": `${volume * 100}%` } as React.CSSProperties}
        onChange={(event) => listening.setVolume(Number(event.target.value))}
      />
    </div>
  );
}
