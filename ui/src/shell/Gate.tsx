import { useId, useState } from "react";
import { readToken } from "../api/token";
import { useWords } from "../words/words";
import { Preferences } from "./Header";
import { Logo } from "./Logo";

interface Props {
  wasRefused: boolean;
  onToken(token: string): void;
}

/** Asks for the token, and says where it is. */
export function Gate({ wasRefused, onToken }: Props) {
  const say = useWords();
  const id = useId();
  const [text, setText] = useState("");
  return (
    <main className="gate">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (readToken(text) !== "") onToken(readToken(text));
        }}
      >
        <Logo />
        <h1>{say("gate.title")}</h1>
        <p>{say("gate.about")}</p>
        {wasRefused && <p className="problem" role="alert">{say("gate.refused")}</p>}
        <label htmlFor={id}>{say("gate.token")}</label>
        <input
          id={id}
          type="password"
          autoComplete="off"
          autoFocus
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        <button type="submit" className="primary" disabled={readToken(text) === ""}>
          {say("gate.open")}
        </button>
        <p className="quiet">
          {say("gate.where")} <code>DATA/tokens.json</code>
        </p>
      </form>
      <Preferences />
    </main>
  );
}
