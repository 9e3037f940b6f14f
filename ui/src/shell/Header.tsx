import { type Ref, useImperativeHandle, useRef } from "react";
import { type Key, type Language, setLanguage, useLanguage, useWords } from "../words/words";
import { Icon } from "./Icon";
import { Logo } from "./Logo";
import { useLibrary, useStudio } from "./studio";
import { setTheme, type Theme, useTheme } from "./theme";

export interface HeaderHandle {
  import(): void;
}

interface Props {
  onHelp(): void;
  onImported(id: string): void;
  handle: Ref<HeaderHandle>;
}

export function Header({ onHelp, onImported, handle }: Props) {
  const say = useWords();
  const { actions } = useStudio();
  const { connection, models } = useLibrary();
  const file = useRef<HTMLInputElement>(null);
  useImperativeHandle(handle, () => ({ import: () => file.current?.click() }), []);
  const state: Key | null =
    connection === "lost" ? "connection.lost" : connection === "open" && models.length === 0 ? "worker.starting" : null;
  return (
    <header className="top">
      <h1><Logo /></h1>
      <p className="connection quiet" role="status" data-connection={connection}>
        {state !== null && say(state)}
        {state === null && models[0] && say("model", { name: models[0].name })}
      </p>
      <button type="button" className="plain import" onClick={() => file.current?.click()}>
        <Icon name="up" />
        <span>{say("import")}</span>
      </button>
      <input
        ref={file}
        type="file"
        multiple
        hidden
        aria-label={say("import")}
        accept=".khala,.wav,.flac,.mp3,.ogg,.opus,audio/*"
        onChange={(event) => {
          const files = [...(event.target.files ?? [])];
          event.target.value = "";
          void actions.import(files).then(([first]) => first && onImported(first.id));
        }}
      />
      <Preferences />
      <button type="button" className="icon help-button" aria-label={say("help")} title={say("help")} onClick={onHelp}>
        ?
      </button>
    </header>
  );
}

const THEMES: Theme[] = ["auto", "light", "dark"];

/** Language and light. */
export function Preferences() {
  const say = useWords();
  const language = useLanguage();
  const theme = useTheme();
  return (
    <div className="preferences">
      <select
        aria-label={say("language.choose")}
        value={language}
        onChange={(event) => setLanguage(event.target.value as Language)}
      >
        <option value="en">English</option>
        <option value="zh">中文</option>
      </select>
      <select
        aria-label={say("theme.choose")}
        value={theme}
        onChange={(event) => setTheme(event.target.value as Theme)}
      >
        {THEMES.map((one) => <option key={one} value={one}>{say(`theme.${one}`)}</option>)}
      </select>
    </div>
  );
}
