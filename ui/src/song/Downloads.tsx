import { useState } from "react";
import { heardLevels, type Format, type Song } from "../api/types";
import { Icon } from "../shell/Icon";
import { useHeard, useStudio } from "../shell/studio";
import { useWords } from "../words/words";

const FORMATS: Format[] = ["wav", "flac", "mp3", "opus"];

/** Sound to take away, and the small file from which the song can be made again. */
export function Downloads({ song }: { song: Song }) {
  const say = useWords();
  const { actions } = useStudio();
  const heard = useHeard();
  const [busy, setBusy] = useState<string | null>(null);
  const there = heardLevels(song);
  if (there.length === 0 && !song.has_file) return null;
  const chosen = heard.song === song.id && heard.levels ? heard.levels : (there.at(-1) ?? null);

  const download = async (format: Format | "khala"): Promise<void> => {
    setBusy(format);
    await actions.download(song, format, chosen);
    setBusy(null);
  };

  return (
    <section className="downloads">
      <h3>{say("download")}</h3>
      <div className="buttons">
        {there.length > 0 && FORMATS.map((format) => (
          <button key={format} type="button" className="plain" disabled={busy === format} onClick={() => void download(format)}>
            <Icon name="down" />
            {format.toUpperCase()}
          </button>
        ))}
        {song.has_file && (
          <button type="button" className="plain" disabled={busy === "khala"} title={say("download.khala")} onClick={() => void download("khala")}>
            <Icon name="share" />
            .khala
          </button>
        )}
      </div>
      <p className="quiet">
        {chosen !== null && there.length > 1 && `${say("download.levels", { n: chosen })} `}
        {song.has_file && say("download.khala")}
      </p>
    </section>
  );
}
