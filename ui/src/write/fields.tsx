import { type ReactNode, useId } from "react";
import { served } from "../words/served";
import { useWords } from "../words/words";

export function FieldProblem({ text }: { text: string | null }) {
  const say = useWords();
  return text === null ? null : <p className="problem" role="alert">{served(text, say)}</p>;
}

interface FieldProps {
  label: string;
  help?: string;
  problem?: string | null;
  children(id: string): ReactNode;
}

/** A labelled field with its help and its problem. */
export function Field({ label, help, problem = null, children }: FieldProps) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id)}
      {help !== undefined && <p className="quiet help">{help}</p>}
      <FieldProblem text={problem} />
    </div>
  );
}

interface SwitchProps {
  label: string;
  isOn: boolean;
  onChange(isOn: boolean): void;
}

export function Switch({ label, isOn, onChange }: SwitchProps) {
  return (
    <label className="switch">
      <input type="checkbox" role="switch" checked={isOn} onChange={(e) => onChange(e.target.checked)} />
      <span className="track" aria-hidden="true" />
      <span>{label}</span>
    </label>
  );
}

interface ChoiceProps<Value extends string | number> {
  label: string;
  value: Value;
  options: readonly { value: Value; label: string; title?: string; isOff?: boolean }[];
  onChange(value: Value): void;
  isLabelHidden?: boolean;
}

/** One of a few, side by side. */
export function Choice<Value extends string | number>(props: ChoiceProps<Value>) {
  const name = useId();
  const { label, value, options, onChange, isLabelHidden = false } = props;
  return (
    <fieldset className="choice">
      <legend className={isLabelHidden ? "unseen" : undefined}>{label}</legend>
      <div className="segments">
        {options.map((one) => (
          <label key={one.value} title={one.title} className={one.isOff ? "off" : undefined}>
            <input
              type="radio"
              name={name}
              checked={one.value === value}
              disabled={one.isOff ?? false}
              onChange={() => onChange(one.value)}
            />
            <span>{one.label}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

interface NumberProps {
  label: string;
  help?: string;
  value: number;
  min: number;
  max: number;
  step: number;
  problem?: string | null;
  shown?: string;
  onChange(value: number): void;
}

export function Slider({ label, help, value, min, max, step, problem, shown, onChange }: NumberProps) {
  const text = shown ?? String(value);
  return (
    <Field label={label} {...(help === undefined ? {} : { help })} problem={problem ?? null}>
      {(id) => (
        <div className="slider">
          <input
            id={id}
            type="range"
            min={min}
            max={max}
            step={step}
            value={value}
            aria-valuetext={text}
            style={{ "--at": `${((value - min) / (max - min)) * 100}%` } as React.CSSProperties}
            onChange={(event) => onChange(Number(event.target.value))}
          />
          <output htmlFor={id}>{text}</output>
        </div>
      )}
    </Field>
  );
}
