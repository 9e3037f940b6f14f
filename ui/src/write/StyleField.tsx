import { useEffect, useId, useRef, useState } from "react";
import type { Tag } from "../api/types";
import { Icon } from "../shell/Icon";
import { useStudio } from "../shell/studio";
import { tagName } from "../words/tags";
import { type Key, useLanguage, useWords } from "../words/words";
import { withTag } from "./draft";
import { FieldProblem } from "./fields";

interface Props {
  tags: string[];
  onChange(tags: string[]): void;
  problem: string | null;
}

/** Style tags: typed freely, or chosen from those that the model was trained with. */
export function StyleField({ tags, onChange, problem }: Props) {
  const say = useWords();
  const language = useLanguage();
  const { client } = useStudio();
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState("");
  const [catalogue, setCatalogue] = useState<Tag[]>([]);
  const [group, setGroup] = useState("style");

  useEffect(() => {
    client.tags().then(setCatalogue, () => {});
  }, [client]);

  const words = text.trim().toLowerCase();
  const groups = [...new Set(catalogue.map((one) => one.group))];
  const isFound = (one: Tag): boolean =>
    one.tag.toLowerCase().includes(words) || tagName(one.tag, language).includes(words);
  const shown = catalogue.filter(words === "" ? (one) => one.group === group : isFound);
  const known = new Set(catalogue.map((one) => one.tag));

  const add = (tag: string): void => {
    onChange(withTag(tags, tag));
    setText("");
  };
  const toggle = (tag: string): void => {
    if (tags.includes(tag)) onChange(tags.filter((one) => one !== tag));
    else add(tag);
  };
  const remove = (tag: string): void => {
    onChange(tags.filter((one) => one !== tag));
    input.current?.focus();
  };
  const onKey = (event: React.KeyboardEvent): void => {
    if (event.nativeEvent.isComposing) return;
    if ((event.key === "Enter" || event.key === ",") && words !== "") {
      event.preventDefault();
      const exact = shown.find((one) => one.tag.toLowerCase() === words);
      add(exact?.tag ?? text);
    } else if (event.key === "Backspace" && text === "" && tags.length > 0) {
      onChange(tags.slice(0, -1));
    } else if (event.key === "Escape" && text !== "") {
      event.stopPropagation();
      setText("");
    }
  };

  return (
    <div className="field">
      <label htmlFor={id}>{say("style")}</label>
      <div className={problem ? "chips wrong" : "chips"} onClick={() => input.current?.focus()}>
        {tags.map((tag) => (
          <span key={tag} className={known.has(tag) ? "chip" : "chip free"}>
            {tagName(tag, language)}
            <button type="button" aria-label={say("style.remove", { tag })} onClick={() => remove(tag)}>
              <Icon name="close" />
            </button>
          </span>
        ))}
        <input
          id={id}
          ref={input}
          value={text}
          autoComplete="off"
          placeholder={tags.length === 0 ? say("style.placeholder") : ""}
          aria-describedby={`${id}-help`}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKey}
          onBlur={() => text.trim() !== "" && add(text)}
        />
      </div>
      <p id={`${id}-help`} className="unseen">{say("style.help")}</p>
      {catalogue.length > 0 && (
        <div className="catalogue">
          {words === "" && (
            <div className="groups" role="group" aria-label={say("style.groups")}>
              {groups.map((one) => (
                <button
                  key={one}
                  type="button"
                  className="group"
                  aria-pressed={one === group}
                  onClick={() => setGroup(one)}
                >
                  {say(`group.${one}` as Key)}
                </button>
              ))}
            </div>
          )}
          <div className="tags" role="group" aria-label={say("style.catalogue")}>
            {shown.map((one) => (
              <button
                key={one.tag}
                type="button"
                className="pill"
                aria-pressed={tags.includes(one.tag)}
                // the field's text is what is searched: leaving it must not make a tag of it
                onPointerDown={(event) => event.preventDefault()}
                onClick={() => toggle(one.tag)}
              >
                {tagName(one.tag, language)}
              </button>
            ))}
            {words !== "" && shown.length === 0 && (
              <p className="quiet">{say("style.free", { tag: text.trim() })}</p>
            )}
          </div>
        </div>
      )}
      <FieldProblem text={problem} />
    </div>
  );
}
