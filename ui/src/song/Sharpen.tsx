import type { Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { useLibrary, useStudio } from "../shell/studio";
import { useWords } from "../words/words";

const STOPS = [8, 32, 64];

/** Give a song more levels: what it has stays as it is. */
export function Sharpen({ song }: { song: Song }) {
  const say = useWords();
  const { actions } = useStudio();
  const { models } = useLibrary();
  const most = Math.max(...models.map((one) => one.levels), 0);
  const stops = STOPS.filter((levels) => levels > song.levels && levels <= most);
  if (stops.length === 0) return null;
  return (
    <section className="sharpen">
      <h3>{say("refine")}</h3>
      <p className="quiet">{say("refine.about", { n: song.levels })}</p>
      <div className="buttons">
        {stops.map((levels) => (
          <button key={levels} type="button" className="plain" onClick={() => void actions.refine(song, levels)}>
            <Icon name="sharpen" />
            {say("refine.to", { n: levels })}
          </button>
        ))}
      </div>
    </section>
  );
}
