import type { Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { tagName } from "../words/tags";
import { useLanguage, useWords } from "../words/words";
import { tagsOf } from "../write/draft";
import { parts } from "../write/tagging";

interface Props {
  song: Song;
  onReuse(): void;
}

/** What was asked for. */
export function Words({ song, onReuse }: Props) {
  const say = useWords();
  const language = useLanguage();
  const { request } = song;
  const settings: [string, string | number | null | undefined][] = [
    [say("duration"), request.duration && say("duration.seconds", { n: Math.round(request.duration) })],
    [say("seed"), request.seed],
    [say("levels.wanted"), song.levels_wanted],
    [say("temperature"), request.temperature],
    [say("top_k"), request.top_k],
    [say("guidance"), request.guidance_scale],
    [say("language"), request.lyrics === "" ? null : request.language],
  ];
  return (
    <section className="words">
      <div className="section-head">
        <h3>{say("request")}</h3>
        <button type="button" className="link" onClick={onReuse}>
          <Icon name="reuse" />
          {say("reuse")}
        </button>
      </div>
      {request.prompt !== "" && (
        <div className="word-tags">
          {tagsOf(request.prompt).map((tag) => <span key={tag} className="chip plain-chip">{tagName(tag, language)}</span>)}
        </div>
      )}
      {request.lyrics !== "" && (
        <div className="sheet" lang={request.language}>
          {parts(request.lyrics).map((part, i) =>
            part.isTag ? <mark key={i}>{part.text.slice(1, -1)}</mark> : <span key={i}>{part.text}</span>,
          )}
        </div>
      )}
      <details className="fold">
        <summary>{say("settings")}</summary>
        <dl>
          {settings.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </details>
    </section>
  );
}
