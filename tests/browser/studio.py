"""The studio as somebody uses it: a page, and the words to find things on it."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

from khala.client import Client

ROOT = Path(__file__).parents[2]
UI = ROOT / "ui"
BUILT = ROOT / "src" / "khala" / "studio" / "index.html"
AXE = UI / "node_modules" / "axe-core" / "axe.min.js"

BROWSER_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip

_CLOCK = re.compile(r"\d+:\d\d")


def build() -> None:
    """Build the studio if it is not built; two at once wait for each other."""
    with (UI / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if BUILT.is_file() and AXE.is_file():
            return
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("the studio is not built and npm is not installed: make studio")
        for words in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
            subprocess.run([npm, *words], cwd=UI, check=True, capture_output=True)


def chromium_path() -> str:
    """Return where the browser is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise RuntimeError("these tests need a real browser: apt-get install chromium")
    return found


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with songs of their own."""

    url: str
    token: str

    @property
    def client(self) -> Client:
        """What they do without the studio."""
        return Client(self.url, self.token, timeout_s=20.0)

    def song(self, title: str, *, prompt: str = "pop", **more: Any) -> str:
        """Ask for a song with a name; return its id."""
        values = {"lyrics": "[Verse]\nla la la", "duration": 5.0, "seed": 7, **more}
        return self.client.create(title=title, prompt=prompt, **values)[0].id

    def finished(self, title: str, **more: Any) -> str:
        """Have a song made; return its id."""
        song = self.song(title, **more)
        self.client.wait(song)
        return song


@dataclass(kw_only=True)
class Studio:
    """A tab with the studio in it, and what it should not have done."""

    page: Page
    origin: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    is_cut_off: bool = False
    """Failed requests are expected now."""

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        self.page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        is_network = "Failed to load resource" in message.text
        # a piece of a sketch may be replaced by the whole between the news of it and the request
        is_piece = is_network and "/pieces/" in message.location.get("url", "")
        is_expected = is_piece or (is_network and self.is_cut_off)
        if message.type in ("error", "warning") and not is_expected:
            self.errors.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)

    @property
    def foreign(self) -> list[str]:
        """Requests to anybody else."""
        own = (self.origin, f"blob:{self.origin}", "data:")
        return [url for url in self.requests if not url.startswith(own)]

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Have failed requests not count while the service is away."""
        self.is_cut_off = True
        yield
        self.page.wait_for_timeout(200)
        self.is_cut_off = False

    # ------------------------------------------------------------------------------- what is seen

    @property
    def rows(self) -> Locator:
        """The songs of the list."""
        return self.page.locator(".row")

    def row(self, title: str) -> Locator:
        """A song of the list."""
        return self.rows.filter(has_text=title)

    @property
    def panel(self) -> Locator:
        """The open song."""
        return self.page.locator(".panel")

    @property
    def player(self) -> Locator:
        """The bar with what is heard."""
        return self.page.locator(".player")

    def button(self, name: str, *, within: Locator | None = None) -> Locator:
        """A button by its name."""
        place: Page | Locator = self.page if within is None else within
        return place.get_by_role("button", name=name, exact=True)

    def heard_s(self) -> int:
        """Whole seconds of the position that is heard."""
        slider = self.player.get_by_role("slider", name="Position")
        return int(slider.get_attribute("aria-valuenow") or "0")

    def assert_fits(self) -> None:
        """Nothing stands out of the place that it is in, or is wider than the screen."""
        wide = self.page.evaluate(
            """() => [".top", ".place-songs", ".composer-fields", ".composer-foot", ".panel",
                      ".player", "body"]
               .flatMap((name) => [...document.querySelectorAll(name)])
               .filter((place) => place.clientWidth > 0)
               .flatMap((place) => [place, ...place.querySelectorAll("*:not(.unseen)")]
                 .filter((one) => one.getBoundingClientRect().right
                                  > place.getBoundingClientRect().right + 1)
                 .map((one) => `${one.outerHTML.slice(0, 90)} in ${place.className}`))"""
        )
        assert wide == []

    def wait_heard(self, at_least_s: int) -> None:
        """Wait until the position is shown to be so far."""
        until_s = time.monotonic() + 10.0
        while self.heard_s() < at_least_s:
            assert time.monotonic() < until_s, f"{self.heard_s()} seconds, not {at_least_s}"
            self.page.wait_for_timeout(30)

    # -------------------------------------------------------------------------------- what is done

    def write(self, lyrics: str, *, tags: str = "", listen: bool = False) -> None:
        """Fill the form in and send it."""
        self.page.get_by_label("Lyrics", exact=True).fill(lyrics)
        if tags:
            style = self.page.get_by_label("Style", exact=True)
            style.fill(tags)
            style.press("Enter")
        switch = self.page.get_by_role("switch", name="Listen while it is written")
        switch.set_checked(listen, force=True)
        self.button("Make song").click()

    def open(self, title: str) -> None:
        """Open a song of the list."""
        row = self.row(title).first.locator(".row-main")
        if row.get_attribute("aria-expanded") == "false":
            row.click()
        expect(self.panel.get_by_role("heading", level=2)).to_contain_text(title)

    def wait_done(self, title: str, timeout_s: float = 20.0) -> None:
        """Wait until the list says how long a song is."""
        length = self.row(title).first.locator(".row-time")
        expect(length).to_have_text(_CLOCK, timeout=timeout_s * 1000)
