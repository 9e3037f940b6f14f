"""Takes the pictures of the studio that the documents show, with the real model.

PYTHONPATH=tests/serve python tests/browser/pictures.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from running import Running
from studio import BROWSER_OPTIONS, ROOT, Person, Studio, build, chromium_path

MOST_BYTES = 200_000

SONGS = (
    ("Late Train", "instrumental, jazz, electric piano, vibraphone, bass, relaxed, 90 bpm", ""),
    (
        "Salt and Honey",
        "male vocal, folk, acoustic guitar, banjo, warm, 110 bpm",
        "[Verse 1]\nSalt on the window, honey in the tea\nYou say the day will be kind to me",
    ),
    (
        "Neon Rain",
        "female vocal, synthwave, synth bass, synth lead, driving, 120 bpm",
        "[Verse 1]\nNeon rain on an empty street\nI hear the city in my heartbeat",
    ),
)

BOATS = "[Verse 1]\nPaper boats on a silver stream\nCarry me back to an early dream"


def opened(browser: Browser, person: Person, width: int, height: int, **options: str) -> Studio:
    """Open a tab of a size."""
    size = {"width": width, "height": height}
    page = browser.new_context(viewport=size, locale="en-GB", **options).new_page()
    page.add_init_script("localStorage.setItem('khala-heard', 'yes')")
    studio = Studio(page=page, origin=person.url)
    page.goto(f"{person.url}/#token={person.token}")
    page.wait_for_timeout(1_000)
    return studio


def take(browser: Browser, person: Person, folder: Path) -> None:
    """Go through the studio, and keep how it looks."""

    def keep(studio: Studio, name: str) -> None:
        path = folder / f"studio-{name}.png"
        studio.page.screenshot(path=path)
        if path.stat().st_size > MOST_BYTES:
            raise RuntimeError(f"{path} has {path.stat().st_size} bytes: at most {MOST_BYTES}")

    empty = opened(browser, person, 1280, 800)
    keep(empty, "empty")
    for title, prompt, lyrics in SONGS:
        person.finished(title, prompt=prompt, lyrics=lyrics, instrumental=not lyrics, duration=20.0)
    kept = person.client.songs(q="Salt")
    person.client.change(next(kept).id, kept=True)
    empty.page.evaluate("history.replaceState(null, '', '/')")
    studio = opened(browser, person, 1440, 900)
    studio.write(
        "[Verse 1]\nI left the light on for the rain\nIt sings a song against the door\n\n"
        "[Chorus]\nCome home, come home tonight\nThe road is long, the stars are bright",
        tags="female vocal, pop, piano, hopeful, 100 bpm",
        listen=True,
    )
    studio.wait_done("I left the light", timeout_s=120.0)
    (song, *_) = person.client.songs(q="light")
    person.client.change(song.id, title="Porch Light")
    person.client.wait(person.client.variants(song.id)[0].id)
    studio.row("Porch Light A").get_by_role("button", name="Play Porch Light").click()
    studio.page.keyboard.press("ArrowRight")
    studio.page.wait_for_timeout(2_500)
    studio.page.evaluate("document.activeElement.blur()")
    keep(studio, "song")
    studio.page.close()
    dark = opened(browser, person, 1440, 900, color_scheme="dark")
    person.song(
        "Paper Boats",
        prompt="male vocal, ballad, strings, gentle, 80 bpm",
        lyrics=BOATS,
        duration=60.0,
    )
    dark.open("Paper Boats")
    dark.button("Play Paper Boats", within=dark.panel).click()
    dark.wait_heard(4)
    keep(dark, "dark")
    dark.page.close()
    phone = opened(browser, person, 390, 800)
    phone.row("Salt").locator(".row-main").click()
    phone.button("Play Salt and Honey", within=phone.panel).click()
    phone.page.wait_for_timeout(5_000)
    keep(phone, "phone")


def main() -> int:
    """Start a service of its own, and take the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    build()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        service = Running(data=Path(temporary) / "data", fake=False)
        service.start()
        try:
            service.wait_worker(timeout_s=120.0)
            token = json.loads((service.data / "tokens.json").read_text())["owner"]
            person = Person(url=f"http://127.0.0.1:{service.port}", token=token)
            browser = playwright.chromium.launch(
                executable_path=chromium_path(), args=BROWSER_OPTIONS
            )
            take(browser, person, folder)
            browser.close()
        finally:
            service.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
