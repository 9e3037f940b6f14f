import { useEffect, useRef } from "react";
import WaveSurfer from "wavesurfer.js";
import { useIsDark } from "../shell/theme";
import { clock } from "../words/time";
import { useWords } from "../words/words";

interface Props {
  peaks: readonly number[] | null;
  duration_s: number;
  position_s: number;
  height: number;
  label: string;
  onSeek(position_s: number): void;
}

/** A sound's outline: shows where it is, and goes where it is touched. */
export function Waveform({ peaks, duration_s, position_s, height, label, onSeek }: Props) {
  const say = useWords();
  const isDark = useIsDark();
  const box = useRef<HTMLDivElement>(null);
  const wave = useRef<WaveSurfer | null>(null);
  const seek = useRef(onSeek);
  const length = useRef(duration_s);
  const position = useRef(position_s);
  seek.current = onSeek;
  length.current = duration_s;
  position.current = position_s;

  useEffect(() => {
    if (box.current === null) return;
    const style = getComputedStyle(box.current);
    const made = WaveSurfer.create({
      container: box.current,
      height,
      waveColor: style.getPropertyValue("outline-color"),
      progressColor: style.getPropertyValue("color"),
      cursorWidth: 0,
      barWidth: 2,
      barGap: 2,
      barRadius: 2,
      barMinHeight: 2,
      normalize: true,
      interact: true,
      dragToSeek: { debounceTime: 0 },
      hideScrollbar: true,
      autoScroll: false,
    });
    made.on("interaction", (at_s) => seek.current(at_s));
    made.on("ready", () => draw(made, position.current, length.current));
    wave.current = made;
    return () => {
      wave.current = null;
      made.destroy();
    };
  }, [height, isDark]);

  useEffect(() => {
    if (wave.current === null || duration_s <= 0) return;
    const shown = peaks === null || peaks.length === 0 ? [0, 0] : [...peaks];
    // a newer outline takes its place: this one is then not missed
    wave.current.load("", [shown], duration_s).catch(() => {});
  }, [peaks, duration_s, height, isDark]);

  useEffect(() => {
    if (wave.current !== null) draw(wave.current, position_s, duration_s);
  }, [position_s, duration_s]);

  const onKey = (event: React.KeyboardEvent): void => {
    const to = { ArrowLeft: position_s - 5, ArrowRight: position_s + 5, Home: 0, End: duration_s }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    onSeek(Math.min(Math.max(to, 0), duration_s));
  };

  return (
    <div
      className="waveform"
      role="slider"
      tabIndex={0}
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={Math.round(duration_s)}
      aria-valuenow={Math.floor(position_s)}
      aria-valuetext={say("position", { at: clock(position_s), of: clock(duration_s) })}
      onKeyDown={onKey}
      style={{ height }}
    >
      <div ref={box} className="waveform-box" aria-hidden="true" />
    </div>
  );
}

function draw(wave: WaveSurfer, position_s: number, duration_s: number): void {
  const share = duration_s > 0 ? Math.min(Math.max(position_s / duration_s, 0), 1) : 0;
  wave.getRenderer().renderProgress(share, false);
}
