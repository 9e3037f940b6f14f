// A picture of its own for every song, drawn from its id: rings like the levels it is made of.

import { memo } from "react";

interface Props {
  id: string;
  /** Variants of one request share a colour. */
  family: string;
}

export const Cover = memo(function Cover({ id, family }: Props) {
  const hue = Math.round((byte(family, 0) / 255) * 360);
  const turn = (byte(family, 2) / 255) * 70 - 35;
  const cx = 20 + (byte(id, 1) / 255) * 60;
  const cy = 25 + (byte(id, 2) / 255) * 60;
  const rings = [0, 1, 2, 3, 4].map((i) => 10 + i * (11 + byte(id, 3 + i) / 40));
  return (
    <svg className="cover" viewBox="0 0 100 100" preserveAspectRatio="xMidYMid slice" aria-hidden="true">
      <rect width="100" height="100" fill={`oklch(0.4 0.085 ${hue})`} />
      {[...rings].reverse().map((radius, i) => (
        <circle
          key={i}
          cx={cx}
          cy={cy}
          r={radius}
          fill={`oklch(${0.45 + i * 0.075} ${0.1 + i * 0.008} ${hue + turn * (i / 4)})`}
          fillOpacity={0.72}
        />
      ))}
    </svg>
  );
});

function byte(id: string, at: number): number {
  return Number.parseInt(id.slice(at * 2, at * 2 + 2), 16) || 0;
}
