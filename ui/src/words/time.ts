// Times, said as people read them.

import type { Say } from "./words";

/** 83.4 -> "1:23". */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** What is left, not more exactly than anybody knows it. */
export function left(seconds: number, say: Say): string {
  if (seconds < 1.5) return say("time.moment");
  if (seconds < 60) return say("time.seconds", { n: Math.round(seconds) });
  if (seconds < 3600) return say("time.minutes", { n: Math.round(seconds / 60) });
  return say("time.hours", { n: Math.round(seconds / 3600) });
}

/** When it was: the clock today, the day before that; `today` is said where a length stands beside. */
export function when(iso: string, language: string, now: Date, today = "{time}"): string {
  const date = new Date(iso);
  const isToday = date.toDateString() === now.toDateString();
  const isThisYear = date.getFullYear() === now.getFullYear();
  const form: Intl.DateTimeFormatOptions = isToday
    ? { hour: "2-digit", minute: "2-digit" }
    : { day: "numeric", month: "short", ...(isThisYear ? {} : { year: "numeric" }) };
  const shown = new Intl.DateTimeFormat(language === "zh" ? "zh-CN" : "en-GB", form).format(date);
  return isToday ? today.replace("{time}", shown) : shown;
}
