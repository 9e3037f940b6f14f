// Line icons, drawn here: one weight, one size, the colour of the text.

const PATHS = {
  play: "M8 5.5v13l10.500-6.500z",
  pause: "M8 5.500v13M16 5.500v13",
  star: "M12 4l2.500 5.100 5.600.800-4 4 .900 5.600-5-2.700-5 2.700.900-5.600-4-4 5.600-.800z",
  close: "M6 6l12 12M18 6L6 18",
  search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.500 15.500L20 20",
  plus: "M12 5v14M5 12h14",
  trash: "M5 7h14M10 7V5h4v2M7 7l.800 12h8.400L17 7M10.500 10.500v5M13.500 10.500v5",
  pen: "M5 19l.800-3.600L15.600 5.600a1.500 1.500 0 0 1 2.100 0l.700.700a1.500 1.500 0 0 1 0 2.100L8.600 18.200z",
  down: "M12 5v10M7.500 11l4.500 4.500 4.500-4.500M5 19h14",
  up: "M12 16V6M7.500 10L12 5.500 16.500 10M5 19h14",
  dice: "M6 5h12a1 1 0 0 1 1 1v12a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1zM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
  retry: "M19 12a7 7 0 1 1-2.200-5.100M19 4.500v3.600h-3.600",
  sharpen: "M4 12h2M8 8v8M12 4.500v15M16 8v8M18.500 12H20",
  back: "M14.500 6l-6 6 6 6",
  volume: "M5 10v4h3l4 3.500v-11L8 10zM15.500 9.500a4 4 0 0 1 0 5M17.800 7a7.500 7.500 0 0 1 0 10",
  mute: "M5 10v4h3l4 3.500v-11L8 10zM16 10l4 4M20 10l-4 4",
  share: "M12 15V5M8 8.500L12 4.500l4 4M7 12H6v7h12v-7h-1",
  note: "M9 17.500V6l9-1.800v11.300M9 17.500a2.300 2.300 0 1 1-4.600 0 2.300 2.300 0 0 1 4.600 0zM18 15.500a2.300 2.300 0 1 1-4.600 0 2.300 2.300 0 0 1 4.600 0z",
  check: "M5.500 12.500l4 4 9-9.500",
  stop: "M7 7h10v10H7z",
  reuse: "M5 8h11a3 3 0 0 1 3 3v0M8 5L5 8l3 3M19 16H8a3 3 0 0 1-3-3v0M16 19l3-3-3-3",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, isFilled = false }: { name: IconName; isFilled?: boolean }) {
  return (
    <svg
      className={isFilled ? "sign filled" : "sign"}
      viewBox="0 0 24 24"
      aria-hidden="true"
      focusable="false"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}
