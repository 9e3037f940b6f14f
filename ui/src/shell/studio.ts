// What every part of the studio reaches: one client, one list of songs, one player.

import { createContext, useContext, useEffect, useState, useSyncExternalStore } from "react";
import { Client } from "../api/client";
import type { Song } from "../api/types";
import { Actions } from "../songs/actions";
import { type Library, Songs } from "../songs/store";
import { type Heard, Listening } from "../sound/listening";
import { Sounds } from "../sound/sounds";

export interface Studio {
  client: Client;
  songs: Songs;
  sounds: Sounds;
  listening: Listening;
  actions: Actions;
}

export function openStudio(token: string, onNoToken: () => void): Studio {
  const client = new Client(token, onNoToken);
  const songs = new Songs(client, () => listening.get().playing !== "paused");
  const sounds = new Sounds(client);
  const listening = new Listening(songs, sounds);
  return { client, songs, sounds, listening, actions: new Actions(client, songs, listening) };
}

export const StudioContext = createContext<Studio | null>(null);

export function useStudio(): Studio {
  const studio = useContext(StudioContext);
  if (studio === null) throw new Error("no studio");
  return studio;
}

export function useLibrary(): Library {
  const { songs } = useStudio();
  return useSyncExternalStore(songs.subscribe, songs.get);
}

export function useHeard(): Heard {
  const { listening } = useStudio();
  return useSyncExternalStore(listening.subscribe, listening.get);
}

export function useSong(id: string | null): Song | undefined {
  const library = useLibrary();
  return id === null ? undefined : library.known.songs[id];
}

/** The position in what is heard, moving while it plays, standing still (and free) otherwise. */
export function usePosition(isMine: boolean, every_ms = 0): number {
  const { listening } = useStudio();
  const heard = useHeard();
  const [position_s, setPosition] = useState(0);
  const isMoving = isMine && heard.playing === "playing";
  useEffect(() => {
    if (!isMine) return setPosition(0);
    setPosition(listening.position_s);
    if (!isMoving) return;
    let frame = 0;
    let last_ms = 0;
    const step = (now_ms: number): void => {
      if (now_ms - last_ms >= every_ms) {
        last_ms = now_ms;
        setPosition(listening.position_s);
      }
      frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
    return () => cancelAnimationFrame(frame);
  }, [listening, heard, isMine, isMoving, every_ms]);
  return position_s;
}
