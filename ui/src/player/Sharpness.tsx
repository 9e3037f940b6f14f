import { heardLevels, isLive, type Song } from "../api/types";
import { useHeard, useStudio } from "../shell/studio";
import { useWords } from "../words/words";

/** With how many levels a song is heard, and a switch between them. */
export function Sharpness({ song }: { song: Song }) {
  const say = useWords();
  const { listening } = useStudio();
  const heard = useHeard();
  const there = heardLevels(song);
  const isHeard = heard.song === song.id;
  const best = there.at(-1);
  const heardNow = isHeard ? heard.levels : best;
  const isPinned = isHeard && heard.choice !== "best" && there.includes(heard.choice);
  return (
    <div className="sharpness" role="group" aria-label={say("sharpness")}>
      {there.map((levels) => (
        <button
          key={levels}
          type="button"
          aria-pressed={levels === heardNow}
          title={levels <= 2 ? say("level.sketch.long") : say("level.long", { n: levels })}
          onClick={() => {
            if (!isHeard) listening.play(song.id);
            listening.choose(levels === best && !isLive(song) ? "best" : levels);
          }}
        >
          {levels <= 2 ? say("level.sketch") : levels}
        </button>
      ))}
      {isPinned && isLive(song) && (
        <button type="button" className="follow" onClick={() => listening.choose("best")}>
          {say("sharpness.follow")}
        </button>
      )}
      {!isPinned && isLive(song) && song.state === "working" && there.length > 0 && (
        <span className="sharpening">{say("sharpening")}</span>
      )}
    </div>
  );
}
