import { useEffect, useState } from "react";
import type { Song } from "../api/types";
import { useStudio } from "../shell/studio";
import { useWords } from "../words/words";

/** The spectrogram with the song's sections; fetched when it is looked at. */
export function Picture({ song }: { song: Song }) {
  const say = useWords();
  const { client } = useStudio();
  const [isOpen, setOpen] = useState(false);
  const [url, setUrl] = useState<string | null>(null);

  useEffect(() => {
    if (!isOpen) return;
    let made: string | null = null;
    let isOld = false;
    client.file(`/v1/songs/${song.id}/plot`).then(
      (file) => {
        if (isOld) return;
        made = URL.createObjectURL(file.data);
        setUrl(made);
      },
      () => {},
    );
    return () => {
      isOld = true;
      if (made !== null) URL.revokeObjectURL(made);
      setUrl(null);
    };
  }, [client, song.id, song.levels, isOpen]);

  return (
    <details className="fold picture" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{say("picture")}</summary>
      {url !== null && (
        <a href={url} target="_blank" rel="noreferrer">
          <img src={url} alt={say("picture.alt", { title: song.title })} />
        </a>
      )}
    </details>
  );
}
