import { useEffect } from "react";
import { heardLevels, type Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { useHeard, useLibrary, useStudio } from "../shell/studio";
import { familyOf, letterOf } from "../songs/state";
import { type Say, useWords } from "../words/words";
import { stageLine } from "./progress";

interface Props {
  song: Song;
  onOpen(id: string): void;
}

/** Songs of one request: heard in turn from the same place, so that ears can decide. */
export function Variants({ song, onOpen }: Props) {
  const say = useWords();
  const { actions, listening, songs } = useStudio();
  const { known, hidden, epoch } = useLibrary();
  const heard = useHeard();
  const family = familyOf(known, song, hidden);
  const canCompare = family.filter((one) => heardLevels(one).length > 0).length > 1;

  useEffect(() => void songs.readFamily(song.family), [songs, song.family, epoch]);

  const compare = (id: string): void => {
    listening.compare(id);
    onOpen(id);
  };

  return (
    <section className="variants" aria-label={say("variants")}>
      <div className="section-head">
        <h3>{say("variants")}</h3>
        <button type="button" className="link" onClick={() => void actions.variants(song, 1)}>
          <Icon name="plus" />
          {say("variants.more")}
        </button>
      </div>
      {family.length > 1 && (
        <>
          <div
            className="versions"
            role="group"
            aria-label={say("variants.compare")}
            onPointerEnter={() => canCompare && listening.prepare(family)}
            onFocus={() => canCompare && listening.prepare(family)}
          >
            {family.map((one, i) => {
              const isThis = one.id === song.id;
              const isOn = one.id === heard.song && heard.playing !== "paused";
              const canPlay = heardLevels(one).length > 0;
              return (
                <button
                  key={one.id}
                  type="button"
                  className={isOn ? "version on" : "version"}
                  aria-pressed={isThis}
                  aria-label={say("variants.one", { letter: letterOf(i), seed: one.request.seed ?? "" })}
                  onClick={() => (canPlay ? compare(one.id) : onOpen(one.id))}
                >
                  <strong>{letterOf(i)}</strong>
                  <span className="quiet">
                    {canPlay ? levelsOf(one, say) : stageLine(one, say)}
                  </span>
                  {one.kept && <Icon name="star" isFilled />}
                </button>
              );
            })}
          </div>
          {canCompare && <p className="quiet">{say("variants.about")}</p>}
        </>
      )}
    </section>
  );
}

function levelsOf(song: Song, say: Say): string {
  const levels = heardLevels(song).at(-1) ?? 2;
  return levels <= 2 ? say("level.sketch") : say("level.long", { n: levels });
}
