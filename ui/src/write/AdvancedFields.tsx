import { Icon } from "../shell/Icon";
import { useWords } from "../words/words";
import { type Draft, LARGEST_SEED } from "./draft";
import { Choice, Field, Slider, Switch } from "./fields";

interface Props {
  draft: Draft;
  set(change: Partial<Draft>): void;
  mostLevels: number;
  problem(field: keyof Draft): string | null;
}

/** Stands for all levels where a number is needed. */
const ALL = 0;

/** What most songs do not need: folded away. */
export function AdvancedFields({ draft, set, mostLevels, problem }: Props) {
  const say = useWords();
  const chosen = draft.levels === mostLevels ? null : draft.levels;
  const levels = [2, 8, 32].filter((one) => one < mostLevels);
  if (chosen !== null && !levels.includes(chosen)) levels.push(chosen);
  const isWrong = (["seed", "levels", "temperature", "top_k", "guidance", "language", "title"] as const)
    .some((field) => problem(field) !== null);
  return (
    <details className="fold advanced" open={isWrong || undefined}>
      <summary>{say("advanced")}</summary>
      <div className="advanced-fields">
        <Field label={say("title")} help={say("title.help")} problem={problem("title")}>
          {(id) => (
            <input
              id={id}
              type="text"
              maxLength={200}
              value={draft.title}
              onChange={(event) => set({ title: event.target.value })}
            />
          )}
        </Field>
        <Field label={say("seed")} help={say("seed.help")} problem={problem("seed")}>
          {(id) => (
            <div className="with-button">
              <input
                id={id}
                type="text"
                inputMode="numeric"
                value={draft.seed}
                placeholder={say("seed.new")}
                onChange={(event) => set({ seed: digits(event.target.value) })}
              />
              <button
                type="button"
                className="icon"
                aria-label={say("seed.roll")}
                title={say("seed.roll")}
                onClick={() => set({ seed: String(Math.floor(Math.random() * 2 ** 31)) })}
              >
                <Icon name="dice" />
              </button>
            </div>
          )}
        </Field>
        <Choice
          label={say("levels.wanted")}
          value={chosen ?? ALL}
          options={[
            ...levels.map((one) => ({
              value: one,
              label: one === 2 ? say("level.sketch") : String(one),
            })),
            { value: ALL, label: say("level.all") },
          ]}
          onChange={(value) => set({ levels: value === ALL ? null : value })}
        />
        <Slider
          label={say("temperature")}
          help={say("temperature.help")}
          value={draft.temperature}
          min={0.1}
          max={2}
          step={0.05}
          problem={problem("temperature")}
          shown={draft.temperature.toFixed(2)}
          onChange={(temperature) => set({ temperature })}
        />
        <Slider
          label={say("top_k")}
          help={say("top_k.help")}
          value={draft.top_k}
          min={1}
          max={400}
          step={1}
          problem={problem("top_k")}
          onChange={(top_k) => set({ top_k })}
        />
        <Slider
          label={say("guidance")}
          help={say("guidance.help")}
          value={draft.guidance ?? 1.5}
          min={1}
          max={5}
          step={0.1}
          problem={problem("guidance")}
          shown={draft.guidance === null ? say("guidance.measured") : draft.guidance.toFixed(1)}
          onChange={(guidance) => set({ guidance })}
        />
        <Switch
          label={say("guidance.auto")}
          isOn={draft.guidance === null}
          onChange={(isOn) => set({ guidance: isOn ? null : 1.5 })}
        />
        <Field label={say("language")} help={say("language.help")} problem={problem("language")}>
          {(id) => (
            <input
              id={id}
              type="text"
              maxLength={35}
              value={draft.language}
              onChange={(event) => set({ language: event.target.value })}
            />
          )}
        </Field>
      </div>
    </details>
  );
}

/** A seed is a whole number that this language can hold exactly. */
function digits(text: string): string {
  const only = text.replace(/\D/g, "");
  return only === "" ? "" : String(Math.min(Number(only), LARGEST_SEED));
}
