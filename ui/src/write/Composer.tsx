import { useEffect, useRef, useState } from "react";
import { Refused } from "../api/client";
import { Icon } from "../shell/Icon";
import { useLibrary, useStudio } from "../shell/studio";
import { told } from "../songs/actions";
import { useWords } from "../words/words";
import { AdvancedFields } from "./AdvancedFields";
import { type Draft, fieldOf, isBlank, keepDraft, toRequest } from "./draft";
import { Choice, FieldProblem, Slider, Switch } from "./fields";
import { LyricsField } from "./LyricsField";
import { StyleField } from "./StyleField";
import { useLyricsCheck } from "./useLyricsCheck";

interface Props {
  draft: Draft;
  onChange(draft: Draft): void;
  onClear(): void;
  onMade(id: string): void;
}

interface Wrong {
  field: keyof Draft | null;
  text: string;
}

const LISTEN_KEY = "khala-listen";

export function Composer({ draft, onChange, onClear, onMade }: Props) {
  const say = useWords();
  const { actions, listening } = useStudio();
  const { models, owner } = useLibrary();
  const [wrong, setWrong] = useState<Wrong | null>(null);
  const [isSending, setSending] = useState(false);
  const [listens, setListens] = useState(localStorage.getItem(LISTEN_KEY) !== "no");
  const form = useRef<HTMLFormElement>(null);
  const checked = useLyricsCheck(draft.isInstrumental ? "" : draft.lyrics, draft.duration);
  const longest_s = Math.min(Math.floor(Math.max(...models.map((one) => one.longest_s), 60)), 600);
  const mostLevels = Math.max(...models.map((one) => one.levels), 2);
  const auto_s = checked.found?.duration ?? 30;

  useEffect(() => {
    const timer = setTimeout(() => keepDraft(draft), 300);
    return () => clearTimeout(timer);
  }, [draft]);

  const set = (change: Partial<Draft>): void => {
    if (wrong !== null && (wrong.field === null || wrong.field in change)) setWrong(null);
    onChange({ ...draft, ...change });
  };
  const problem = (field: keyof Draft): string | null => (wrong?.field === field ? wrong.text : null);

  const send = async (): Promise<void> => {
    if (isSending) return;
    if (!draft.isInstrumental && draft.lyrics.trim() === "") {
      setWrong({ field: "lyrics", text: say("lyrics.needed") });
      form.current?.querySelector("textarea")?.focus();
      return;
    }
    const listensNow = listens && listening.get().playing === "paused";
    if (listensNow) listening.player.unlock();
    setSending(true);
    setWrong(null);
    try {
      const [first] = await actions.create(toRequest(draft));
      if (first === undefined) return;
      if (listensNow) listening.play(first.id);
      onMade(first.id);
    } catch (error) {
      const field = error instanceof Refused ? fieldOf(error.field) : null;
      setWrong({ field, text: error instanceof Refused ? error.detail : told(error) });
    } finally {
      setSending(false);
    }
  };

  return (
    <form
      ref={form}
      className="composer"
      aria-label={say("write.label")}
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
      onKeyDown={(event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void send();
      }}
    >
      <div className="composer-fields">
        <div className="composer-head">
          <h2>{say("write")}</h2>
          {!isBlank(draft) && (
            <button type="button" className="link" onClick={onClear}>
              {say("write.clear")}
            </button>
          )}
        </div>
        <Switch
          label={say("instrumental")}
          isOn={draft.isInstrumental}
          onChange={(isInstrumental) => set({ isInstrumental })}
        />
        {!draft.isInstrumental && (
          <LyricsField
            lyrics={draft.lyrics}
            onChange={(lyrics) => set({ lyrics })}
            checked={checked}
            problem={problem("lyrics")}
          />
        )}
        <StyleField tags={draft.tags} onChange={(tags) => set({ tags })} problem={problem("tags")} />
        <LengthField
          draft={draft}
          set={set}
          longest_s={longest_s}
          auto_s={draft.isInstrumental ? 30 : auto_s}
          problem={problem("duration")}
        />
        <Choice
          label={say("variants.n")}
          value={draft.n}
          options={[1, 2, 3, 4]
            .filter((n) => n <= (owner?.limits["variants"] ?? 4))
            .map((n) => ({ value: n, label: String(n) }))}
          onChange={(n) => set({ n })}
        />
        <AdvancedFields draft={draft} set={set} mostLevels={mostLevels} problem={problem} />
      </div>
      <div className="composer-foot">
        {wrong !== null && wrong.field === null && <FieldProblem text={wrong.text} />}
        <button type="submit" className="primary" disabled={isSending}>
          <Icon name="note" />
          {isSending ? say("write.sending") : say("write.make", { n: draft.n })}
        </button>
        <Switch
          label={say("write.listen")}
          isOn={listens}
          onChange={(isOn) => {
            setListens(isOn);
            localStorage.setItem(LISTEN_KEY, isOn ? "yes" : "no");
          }}
        />
      </div>
    </form>
  );
}

interface LengthProps {
  draft: Draft;
  set(change: Partial<Draft>): void;
  longest_s: number;
  auto_s: number;
  problem: string | null;
}

function LengthField({ draft, set, longest_s, auto_s, problem }: LengthProps) {
  const say = useWords();
  const isAuto = draft.duration === null;
  const value = Math.round(draft.duration ?? auto_s);
  return (
    <div className="length">
      <Slider
        label={say("duration")}
        value={Math.min(value, longest_s)}
        min={5}
        max={longest_s}
        step={1}
        problem={problem}
        shown={isAuto ? say("duration.about", { n: value }) : say("duration.seconds", { n: value })}
        onChange={(duration) => set({ duration })}
      />
      <Switch
        label={draft.isInstrumental ? say("duration.usual") : say("duration.auto")}
        isOn={isAuto}
        onChange={(isOn) => set({ duration: isOn ? null : value })}
      />
    </div>
  );
}
