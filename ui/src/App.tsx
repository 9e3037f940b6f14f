import { useCallback, useEffect, useMemo, useState } from "react";
import { forgetToken, keepToken, takeToken } from "./api/token";
import { Gate } from "./shell/Gate";
import { Aloud, Notes } from "./shell/Notes";
import { openStudio, StudioContext } from "./shell/studio";
import { Places } from "./shell/Places";
import { useLanguage } from "./words/words";

/** The studio behind its gate: without the service's token there is nothing to see. */
export function App() {
  const language = useLanguage();
  const [token, setToken] = useState(takeToken);
  const [wasRefused, setRefused] = useState(false);

  useEffect(() => {
    document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  }, [language]);

  const refuse = useCallback(() => {
    forgetToken();
    setRefused(true);
    setToken(null);
  }, []);

  // somebody opens the address with the token in a tab that is at the gate
  useEffect(() => {
    const onHash = (): void => {
      if (location.hash.startsWith("#token=")) setToken(takeToken());
    };
    addEventListener("hashchange", onHash);
    return () => removeEventListener("hashchange", onHash);
  }, []);

  const studio = useMemo(() => (token === null ? null : openStudio(token, refuse)), [token, refuse]);
  useEffect(() => {
    studio?.songs.start();
    return () => {
      studio?.songs.stop();
      studio?.listening.stop();
    };
  }, [studio]);

  return (
    <>
      {studio === null ? (
        <Gate
          wasRefused={wasRefused}
          onToken={(given) => {
            keepToken(given);
            setToken(given);
          }}
        />
      ) : (
        <StudioContext value={studio}>
          <Places />
        </StudioContext>
      )}
      <Notes />
      <Aloud />
    </>
  );
}
