import { useCallback, useEffect, useState } from "react";

/** The song that is open, which stands in the address: "back" and a reload know it. */
export function usePlace(): [string | null, (id: string | null) => void] {
  const [open, setOpen] = useState(read);
  useEffect(() => {
    const onHash = (): void => setOpen(read());
    addEventListener("hashchange", onHash);
    return () => removeEventListener("hashchange", onHash);
  }, []);
  const go = useCallback((id: string | null) => {
    if (id === read()) return;
    if (id === null) {
      history.pushState(null, "", location.pathname + location.search);
      setOpen(null);
    } else {
      location.hash = `song=${id}`;
    }
  }, []);
  return [open, go];
}

function read(): string | null {
  return /^#song=([0-9a-f]{32})$/.exec(location.hash)?.[1] ?? null;
}
