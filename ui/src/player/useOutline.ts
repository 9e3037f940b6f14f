import { useEffect, useState } from "react";
import { heardLevels, type Song } from "../api/types";
import { useHeard, useStudio } from "../shell/studio";
import { outline } from "../sound/timeline";

const COLUMNS = 400;

export interface Outline {
  peaks: readonly number[] | null;
  duration_s: number;
}

/** What a song's sound looks like: from the service, or from the pieces that are there so far. */
export function useOutline(song: Song | undefined): Outline {
  const { sounds, listening } = useStudio();
  const heard = useHeard();
  const isHeard = song !== undefined && heard.song === song.id;
  const isWritten = isHeard && heard.levels === 0;
  const levels = song === undefined ? undefined : isHeard && heard.levels ? heard.levels : heardLevels(song).at(-1);
  const id = song?.id;
  const [stored, setStored] = useState<{ key: string; peaks: number[] } | null>(null);
  const key = `${id}/${levels}`;

  useEffect(() => {
    if (id === undefined || levels === undefined) return;
    let isOld = false;
    const show = (peaks: number[]): void => {
      if (!isOld) setStored({ key: `${id}/${levels}`, peaks });
    };
    sounds.peaks(id, levels).then(show, () => {});
    return () => {
      isOld = true;
    };
  }, [sounds, id, levels]);

  const [written, setWritten] = useState<number[] | null>(null);
  useEffect(() => {
    const { sound } = listening.player;
    setWritten(isWritten && sound !== null ? outline(sound, COLUMNS) : null);
  }, [listening, isWritten, heard.parts, id]);

  if (isWritten) return { peaks: written, duration_s: heard.duration_s };
  const duration_s = (isHeard && heard.duration_s) || song?.duration || song?.request.duration || 0;
  // until the sharper outline is there, the one of before is as good
  const isSame = stored !== null && id !== undefined && stored.key.startsWith(`${id}/`);
  return { peaks: isSame || stored?.key === key ? stored.peaks : null, duration_s };
}
