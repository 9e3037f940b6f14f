import { useEffect, useRef } from "react";
import { useWords } from "../words/words";
import { Icon } from "./Icon";
import { KEYS } from "./useKeys";

export function Help({ isOpen, onClose }: { isOpen: boolean; onClose(): void }) {
  const say = useWords();
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (isOpen && !dialog.current?.open) dialog.current?.showModal();
    if (!isOpen) dialog.current?.close();
  }, [isOpen]);
  return (
    <dialog
      ref={dialog}
      className="help-dialog"
      aria-labelledby="help-title"
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && onClose()}
    >
      <div className="help-inside">
        <div className="section-head">
          <h2 id="help-title">{say("help.title")}</h2>
          <button type="button" className="icon" aria-label={say("close")} onClick={onClose}>
            <Icon name="close" />
          </button>
        </div>
        <dl>
          {KEYS.map(({ shown, key }) => (
            <div key={key}>
              <dt>{shown.map((one) => <kbd key={one}>{one}</kbd>)}</dt>
              <dd>{say(key)}</dd>
            </div>
          ))}
        </dl>
        <p className="quiet">{say("honest")}</p>
      </div>
    </dialog>
  );
}
