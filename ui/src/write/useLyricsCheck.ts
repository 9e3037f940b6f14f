import { useEffect, useState } from "react";
import { Refused } from "../api/client";
import type { LyricsChecked } from "../api/types";
import { useStudio } from "../shell/studio";

/** After so long without a key stroke the words are looked at. */
const PAUSE_MS = 350;

export interface Checked {
  found: LyricsChecked | null;
  problem: string | null;
}

/** What the model will read, for what stands there now. */
export function useLyricsCheck(lyrics: string, duration: number | null): Checked {
  const { client } = useStudio();
  const [checked, setChecked] = useState<Checked>({ found: null, problem: null });
  useEffect(() => {
    if (lyrics.trim() === "") {
      setChecked({ found: null, problem: null });
      return;
    }
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setChecked({ found: await client.check(lyrics, duration, abort.signal), problem: null });
      } catch (error) {
        if (error instanceof Refused) setChecked({ found: null, problem: error.detail });
      }
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [client, lyrics, duration]);
  return checked;
}
