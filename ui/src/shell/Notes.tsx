import { useEffect, useState } from "react";
import { useWords } from "../words/words";
import { Icon } from "./Icon";
import { dismiss, type Note, useAloud, useNotes } from "./notes";

export function Notes() {
  const notes = useNotes();
  const say = useWords();
  return (
    <section className="notes" aria-label={say("notes.label")}>
      {notes.map((one) => <OneNote key={one.id} note={one} />)}
    </section>
  );
}

function OneNote({ note }: { note: Note }) {
  const say = useWords();
  const [isHeld, hold] = useState(false);
  useEffect(() => {
    if (isHeld) return;
    const timer = setTimeout(() => dismiss(note.id), note.lasts_ms);
    return () => clearTimeout(timer);
  }, [note, isHeld]);
  return (
    <div
      className={`note ${note.tone}`}
      role={note.tone === "bad" ? "alert" : "status"}
      onPointerEnter={() => hold(true)}
      onPointerLeave={() => hold(false)}
      onFocus={() => hold(true)}
      onBlur={() => hold(false)}
    >
      <span>{note.text}</span>
      {note.action && (
        <button
          type="button"
          className="link"
          onClick={() => {
            note.action?.run();
            dismiss(note.id);
          }}
        >
          {note.action.label}
        </button>
      )}
      <button type="button" className="icon small" aria-label={say("close")} onClick={() => dismiss(note.id)}>
        <Icon name="close" />
      </button>
    </div>
  );
}

/** Says milestones to screen readers; never each step of a progress. */
export function Aloud() {
  const text = useAloud();
  return <div className="unseen" role="status" aria-live="polite" data-testid="aloud">{text}</div>;
}
