import { useCallback, useEffect, useRef, useState } from "react";
import { flushSync } from "react-dom";
import { Library } from "../library/Library";
import { PlayerBar } from "../player/PlayerBar";
import { SongPanel } from "../song/SongPanel";
import { useWords } from "../words/words";
import { Composer } from "../write/Composer";
import { type Draft, EMPTY, isBlank, keptDraft } from "../write/draft";
import type { Example } from "../write/examples";
import { Header, type HeaderHandle } from "./Header";
import { Help } from "./Help";
import { announce, note } from "./notes";
import { useHeard, useStudio } from "./studio";
import { useDrop } from "./useDrop";
import { useKeys } from "./useKeys";
import { usePlace } from "./usePlace";

type Side = "write" | "songs";

/** Three places beside each other: writing, the list, one song. On a phone, one at a time. */
export function Places() {
  const say = useWords();
  const { actions, listening, songs } = useStudio();
  const heard = useHeard();
  const [open, setOpen] = usePlace();
  const [side, setSide] = useState<Side>("songs");
  const [draft, setDraft] = useState<Draft>(keptDraft);
  const [isHelping, setHelping] = useState(false);
  const header = useRef<HeaderHandle>(null);
  const write = useRef<HTMLElement>(null);

  const show = useCallback(
    (id: string) => {
      setOpen(id);
      setSide("songs");
    },
    [setOpen],
  );
  const close = useCallback(() => setOpen(null), [setOpen]);

  useEffect(() => {
    songs.onMilestone = (song, what) => announce(say(`aloud.${what}`, { title: song.title }));
  }, [songs, say]);

  const isDropping = useDrop((files) => {
    void actions.import(files).then(([first]) => first && show(first.id));
  });

  const begin = (example: Example): void => {
    const isQuiet = listening.get().playing === "paused";
    if (isQuiet) listening.player.unlock();
    void actions.createSimply(example.request).then(([first]) => {
      if (first === undefined) return;
      if (isQuiet) listening.play(first.id);
      show(first.id);
    });
  };

  const goWrite = (): void => {
    // it must be on the screen before it can have the focus
    flushSync(() => setSide("write"));
    write.current?.querySelector<HTMLElement>("textarea, .chips input")?.focus();
  };

  /** Put something else in place of what is written, which can be had back. */
  const replace = (next: Draft, text: string): void => {
    if (!isBlank(draft)) note(text, { action: { label: say("undo"), run: () => setDraft(draft) } });
    setDraft(next);
  };

  useKeys({
    onSearch: () => {
      flushSync(() => setSide("songs"));
      document.getElementById("search")?.focus();
    },
    onNew: goWrite,
    onHelp: () => setHelping(true),
    onOpen: show,
  });

  return (
    <div
      className="studio"
      data-side={side}
      data-open={open !== null}
      data-heard={heard.song !== null}
      data-same={heard.song !== null && heard.song === open}
    >
      <Header handle={header} onHelp={() => setHelping(true)} onImported={show} />
      <nav className="sides" aria-label={say("sides")}>
        {(["write", "songs"] as const).map((one) => (
          <button
            key={one}
            type="button"
            aria-current={side === one ? "page" : undefined}
            onClick={() => (one === "write" ? setSide("write") : setSide("songs"))}
          >
            {say(`side.${one}`)}
          </button>
        ))}
      </nav>
      <main className="places">
        <section ref={write} className="place-write">
          <Composer
            draft={draft}
            onChange={setDraft}
            onClear={() => replace(EMPTY, say("write.cleared"))}
            onMade={show}
          />
        </section>
        <div className="place-songs">
          <Library open={open} onOpen={(id) => (id === open ? close() : show(id))} onExample={begin} />
        </div>
        {open !== null && (
          <SongPanel
            id={open}
            onClose={close}
            onOpen={show}
            onReuse={(next) => {
              replace(next, say("reuse.done"));
              goWrite();
            }}
          />
        )}
      </main>
      <PlayerBar onOpen={show} />
      <Help isOpen={isHelping} onClose={() => setHelping(false)} />
      {isDropping && <div className="drop" aria-hidden="true">{say("import.drop")}</div>}
    </div>
  );
}
