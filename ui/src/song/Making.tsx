import type { Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { useLibrary, useStudio } from "../shell/studio";
import { left } from "../words/time";
import { served } from "../words/served";
import { useWords } from "../words/words";
import { levelsDone, shareDone, stageLine } from "./progress";

/** How far a song is, what it waits for, and what can be done about it. */
export function Making({ song }: { song: Song }) {
  const say = useWords();
  const { actions } = useStudio();
  const { models, stopping } = useLibrary();
  if (song.state === "done") return null;
  const isWorking = song.state === "working";
  const isQueued = song.state === "queued";
  const stops = stopping[song.id];
  const eta_s = isQueued ? (song.queue?.eta_s ?? null) : song.progress.eta_s;
  return (
    <section className={`card making-card ${song.state}`} aria-label={say("making")}>
      <div className="making-head">
        <strong>
          {stops ? say(`stopping.${stops}`) : isWorking || isQueued ? stageLine(song, say) : say(`state.${song.state}`)}
        </strong>
        {(isWorking || isQueued) && !stops && eta_s !== null && (
          <span className="quiet">{say(isQueued ? "queue.eta" : "eta", { time: left(eta_s, say) })}</span>
        )}
      </div>
      <Rail song={song} />
      {song.error !== null && song.state === "failed" && (
        <p className="problem">{served(song.error.detail, say)}</p>
      )}
      {isQueued && models.length === 0 && <p className="quiet">{say("worker.starting")}</p>}
      {song.state === "cancelled" && (
        <p className="quiet">{say(song.levels > 0 ? "cancelled.kept" : "cancelled.nothing")}</p>
      )}
      <div className="buttons">
        {(isWorking || isQueued) && (
          <>
            <button type="button" className="plain" disabled={stops !== undefined} onClick={() => void actions.pause(song)}>
              <Icon name="pause" />
              {say("pause.making")}
            </button>
            <button type="button" className="plain" disabled={stops === "cancel"} onClick={() => void actions.cancel(song)}>
              <Icon name="stop" />
              {say("cancel")}
            </button>
          </>
        )}
        {song.state === "paused" && (
          <>
            <button type="button" className="plain strong" onClick={() => void actions.resume(song)}>
              <Icon name="retry" />
              {say("resume")}
            </button>
            <button type="button" className="plain" onClick={() => void actions.cancel(song)}>
              <Icon name="stop" />
              {say("cancel")}
            </button>
          </>
        )}
        {(song.state === "failed" || song.state === "cancelled") && (
          <button type="button" className="plain strong" onClick={() => void actions.resume(song)}>
            <Icon name="retry" />
            {say(song.state === "failed" ? "retry" : "resume")}
          </button>
        )}
      </div>
    </section>
  );
}

const STEPS = ["sketch", "detail", "sound"] as const;

function Rail({ song }: { song: Song }) {
  const say = useWords();
  const { done, total } = song.progress;
  const levels = levelsDone(song);
  const isOver = (step: (typeof STEPS)[number]): boolean =>
    step === "sketch" ? song.levels >= 2 : step === "detail" && song.levels >= song.levels_wanted;
  const about = {
    sketch: song.stage === "sketch" && total > 0 ? `${Math.round((done / total) * 100)} %` : "",
    detail: song.levels >= 2 ? say("levels.of", { n: levels, of: song.levels_wanted }) : "",
    sound: "",
  };
  return (
    <div className="rail">
      <div
        className="bar"
        role="progressbar"
        aria-label={say("making")}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.round(shareDone(song) * 100)}
      >
        <span style={{ transform: `scaleX(${shareDone(song)})` }} />
      </div>
      <ol className="rail-steps">
        {STEPS.map((step) => (
          <li
            key={step}
            className={isOver(step) ? "over" : song.stage === step ? "now" : undefined}
            aria-current={song.stage === step ? "step" : undefined}
          >
            <span>{say(`step.${step}`)}</span>
            {about[step] !== "" && <span className="quiet">{about[step]}</span>}
          </li>
        ))}
      </ol>
    </div>
  );
}
