// Songs to begin with, written for this studio.

import type { NewSong } from "../api/types";
import type { Key } from "../words/words";

export interface Example {
  id: "pop" | "ballad" | "instrumental";
  name: Key;
  about: Key;
  request: NewSong;
}

export const EXAMPLES: readonly Example[] = [
  {
    id: "pop",
    name: "example.pop",
    about: "example.pop.about",
    request: {
      title: "Porch Light",
      prompt: "female vocal, pop, piano, drums, bass, hopeful, 100 bpm",
      lyrics: [
        "[Verse 1]",
        "I left the light on for the rain",
        "It sings a song against the door",
        "I hear you calling out my name",
        "And I am not afraid anymore",
        "",
        "[Chorus]",
        "Come home, come home tonight",
        "The road is long, the stars are bright",
        "Come home, come home to me",
      ].join("\n"),
      duration: 30,
    },
  },
  {
    id: "ballad",
    name: "example.ballad",
    about: "example.ballad.about",
    request: {
      title: "窗外的河",
      prompt: "male vocal, ballad, acoustic guitar, strings, tender, 80 bpm",
      lyrics: [
        "[Verse 1]",
        "窗外的河慢慢流",
        "带走一盏小小的灯",
        "你说过春天会回来",
        "我就在桥上等",
        "",
        "[Chorus]",
        "慢一点 再慢一点",
        "让歌声陪我到明天",
      ].join("\n"),
      duration: 30,
      language: "zh",
    },
  },
  {
    id: "instrumental",
    name: "example.instrumental",
    about: "example.instrumental.about",
    request: {
      title: "Late Train",
      prompt: "instrumental, jazz, electric piano, vibraphone, bass, drums, relaxed, 90 bpm",
      lyrics: "",
      instrumental: true,
      duration: 30,
    },
  },
];
