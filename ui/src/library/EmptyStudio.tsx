import { Icon } from "../shell/Icon";
import { useWords } from "../words/words";
import { type Example, EXAMPLES } from "../write/examples";

/** What is seen before there is any song: what happens here, and three ways to begin. */
export function EmptyStudio({ onExample }: { onExample(example: Example): void }) {
  const say = useWords();
  return (
    <section className="empty" aria-label={say("empty.label")}>
      <h2>{say("empty.title")}</h2>
      <ol className="steps">
        <li>{say("empty.one")}</li>
        <li>{say("empty.two")}</li>
        <li>{say("empty.three")}</li>
      </ol>
      <h3>{say("empty.begin")}</h3>
      <ul className="examples">
        {EXAMPLES.map((example) => (
          <li key={example.id}>
            <button type="button" className={`example ${example.id}`} onClick={() => onExample(example)}>
              <span className="example-play"><Icon name="play" isFilled /></span>
              <span className="example-text">
                <strong>{example.request.title}</strong>
                <span>{say(example.name)}</span>
                <span className="quiet">{say(example.about)}</span>
              </span>
            </button>
          </li>
        ))}
      </ul>
      <p className="quiet">{say("honest")}</p>
    </section>
  );
}
