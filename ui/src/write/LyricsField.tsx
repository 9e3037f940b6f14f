import { useId, useRef } from "react";
import { served } from "../words/served";
import { useWords } from "../words/words";
import { FieldProblem } from "./fields";
import { insertTag, nextTag, parts, SECTIONS } from "./tagging";
import type { Checked } from "./useLyricsCheck";

const MOST = 5_000;

interface Props {
  lyrics: string;
  onChange(lyrics: string): void;
  checked: Checked;
  problem: string | null;
}

/** Words with their tags in colour, and what the model will make of them. */
export function LyricsField({ lyrics, onChange, checked, problem }: Props) {
  const say = useWords();
  const id = useId();
  const field = useRef<HTMLTextAreaElement>(null);
  const shown = problem ?? checked.problem;

  const insert = (name: string): void => {
    const area = field.current;
    if (area === null) return;
    const at = insertTag(area.value, area.selectionStart, area.selectionEnd, nextTag(area.value, name));
    area.focus();
    area.setSelectionRange(at.from, at.to);
    // so that undo undoes it; browsers that cannot do this are given the text itself
    if (!document.execCommand("insertText", false, at.text)) {
      area.setRangeText(at.text, at.from, at.to, "end");
      onChange(area.value);
    }
    area.setSelectionRange(at.cursor, at.cursor);
  };

  return (
    <div className="field">
      <div className="label-row">
        <label htmlFor={id}>{say("lyrics")}</label>
        {lyrics.length > MOST * 0.8 && <span className="quiet">{lyrics.length} / {MOST}</span>}
      </div>
      <div className="inserts" role="group" aria-label={say("lyrics.insert")}>
        {SECTIONS.map((name) => (
          <button key={name} type="button" className="pill" onClick={() => insert(name)}>
            {say(`section.${name}`)}
          </button>
        ))}
      </div>
      <div className={shown ? "lyrics wrong" : "lyrics"}>
        <div className="lyrics-mirror" aria-hidden="true">
          {parts(lyrics).map((part, i) =>
            part.isTag ? <mark key={i}>{part.text}</mark> : <span key={i}>{part.text}</span>,
          )}
          {"\n"}
        </div>
        <textarea
          id={id}
          ref={field}
          value={lyrics}
          onChange={(event) => onChange(event.target.value)}
          placeholder={say("lyrics.placeholder")}
          spellCheck={false}
          aria-invalid={shown !== null}
          aria-describedby={`${id}-seen`}
        />
      </div>
      <div id={`${id}-seen`} className="seen">
        <FieldProblem text={shown} />
        {shown === null && checked.found !== null && <Seen checked={checked} lyrics={lyrics} />}
      </div>
    </div>
  );
}

function Seen({ checked, lyrics }: { checked: Checked; lyrics: string }) {
  const say = useWords();
  const { found } = checked;
  if (found === null) return null;
  const isOther = found.normalised.trim() !== lyrics.trim();
  return (
    <>
      <p className="quiet sections">
        <span>{say("lyrics.words", { n: found.words })}</span>
        {found.sections.map((one, i) => (
          <span key={i} className={one.words === 0 ? "section empty" : "section"}>
            {one.tag || say("lyrics.untagged")}
          </span>
        ))}
      </p>
      {found.warnings.map((line) => <p key={line} className="warning">{served(line, say)}</p>)}
      {isOther && (
        <details className="fold">
          <summary>{say("lyrics.normalised")}</summary>
          <pre className="normalised">{found.normalised}</pre>
        </details>
      )}
    </>
  );
}
