// The token that opens the service: it comes in the address once, and is kept in this browser.

const KEY = "khala-token";

/** Take the token out of the address, if it is there, and return the one that is known. */
export function takeToken(): string | null {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (found?.[1]) {
    keepToken(decodeURIComponent(found[1]));
    history.replaceState(null, "", location.pathname + location.search);
  }
  return localStorage.getItem(KEY);
}

export function keepToken(token: string): void {
  localStorage.setItem(KEY, token);
}

export function forgetToken(): void {
  localStorage.removeItem(KEY);
}

/** What somebody pasted: the token, or the whole address that has it. */
export function readToken(text: string): string {
  const found = /#token=([^\s&]+)/.exec(text);
  return found?.[1] ? decodeURIComponent(found[1]) : text.trim();
}
