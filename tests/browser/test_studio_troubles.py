"""Reloads, several tabs, lost connections: the studio shows what is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import expect
from running import Running
from studio import Person


def test_without_the_token_there_is_a_gate(person: Person, open_studio) -> None:
    """Somebody with an old bookmark would see an empty page and no way in."""
    studio = open_studio(person, path="/")
    expect(studio.page.get_by_role("heading", name="Your studio is locked")).to_be_visible()
    with studio.cut_off():
        studio.page.get_by_label("Token").fill("this-is-not-the-token")
        studio.button("Open the studio").click()
        expect(studio.page.get_by_role("alert")).to_contain_text("does not open")
    studio.page.get_by_label("Token").fill(f"{person.url}/#token={person.token}")
    studio.button("Open the studio").click()
    expect(studio.page.get_by_role("heading", name="New song")).to_be_visible()
    studio.page.reload()
    expect(studio.page.get_by_role("heading", name="New song")).to_be_visible()


def test_a_reload_in_the_middle_finds_everything(person: Person, open_studio) -> None:
    """Whoever reloads would believe that the song is lost."""
    song = person.song("Patient", prompt="slow", levels=24)
    studio = open_studio(person)
    studio.open("Patient")
    expect(studio.panel.locator(".rail-steps .now")).to_be_visible()
    studio.page.reload()
    expect(studio.panel.get_by_role("heading", level=2)).to_contain_text("Patient")
    expect(studio.panel.locator(".rail-steps .now")).to_be_visible()
    studio.wait_done("Patient")
    expect(studio.panel.locator(".making-card")).to_have_count(0)
    expect(studio.page.get_by_test_id("aloud")).to_have_text("Patient is finished.")
    assert person.client.get(song).levels == 24


def test_two_tabs_show_the_same(person: Person, open_studio) -> None:
    """What is done in one tab would be undone, or done twice, in the other."""
    first = open_studio(person)
    second = open_studio(person, beside=first, path="/")
    first.write("[Verse]\nboth of us", tags="pop")
    expect(second.row("both of us")).to_be_visible()
    second.wait_done("both of us")
    second.open("both of us")
    second.button("Keep both of us").click()
    expect(
        first.row("both of us").get_by_role("button", name=re.compile("Keep"))
    ).to_have_attribute("aria-pressed", "true")
    second.button("Delete").click()
    second.page.close()
    expect(first.row("both of us")).to_have_count(0)
    expect(first.panel).to_contain_text("not here any more")


def test_a_service_that_is_killed_comes_back_by_itself(
    browser,  # noqa: ARG001
    open_studio,
    tmp_path: Path,
) -> None:
    """The page would stay dead until somebody thinks of reloading it."""
    service = Running(data=tmp_path / "data")
    service.start()
    service.wait_worker()
    try:
        token = json.loads((service.data / "tokens.json").read_text())["owner"]
        person = Person(url=f"http://127.0.0.1:{service.port}", token=token)
        studio = open_studio(person)
        person.finished("Before")
        expect(studio.row("Before")).to_be_visible()
        with studio.cut_off():
            service.kill()
            expect(studio.page.get_by_text("Connection lost, trying again")).to_be_visible()
            # an order that nobody answered is sent again by itself, and is one song
            studio.write("[Verse]\nthrough the storm", tags="pop")
            service.start()
            expect(studio.row("through the storm")).to_be_visible()
            expect(studio.page.get_by_text("Connection lost")).to_have_count(0)
        studio.wait_done("through the storm")
        assert [one.title for one in person.client.songs()] == ["through the storm", "Before"]
        studio.page.goto("about:blank")
    finally:
        service.stop()


def test_what_happened_while_offline_is_there_afterwards(person: Person, open_studio) -> None:
    """A laptop that was closed would show yesterday's list."""
    gone = person.finished("Gone")
    studio = open_studio(person)
    expect(studio.row("Gone")).to_be_visible()
    with studio.cut_off():
        studio.page.context.set_offline(True)
        expect(studio.page.get_by_text("Connection lost, trying again")).to_be_visible()
        person.client.delete(gone)
        person.finished("Meanwhile")
        studio.page.context.set_offline(False)
        expect(studio.row("Meanwhile")).to_be_visible()
    expect(studio.row("Gone")).to_have_count(0)
