"""What people do with songs, in a real browser against a running service."""

from __future__ import annotations

import re
import time
import wave
from pathlib import Path

from playwright.sync_api import expect
from running import Running
from studio import Person, Studio

WORDS = "[Verse 1]\nI left the light on for the rain"


def test_first_song_from_an_example(person: Person, open_studio) -> None:
    """Somebody new would not know what to do, or one click would make nothing."""
    studio = open_studio(person)
    expect(studio.page.get_by_role("heading", name="Words in, a song out")).to_be_visible()
    assert "token" not in studio.page.url
    studio.page.get_by_role("button", name=re.compile("Porch Light")).click()
    expect(studio.row("Porch Light")).to_be_visible(timeout=2_000)
    expect(studio.player).to_have_attribute("data-playing", "playing")
    studio.wait_done("Porch Light")
    expect(studio.player).to_have_attribute("data-levels", "64")
    expect(studio.panel).to_contain_text("I left the light on for the rain")
    assert [one.title for one in person.client.songs()] == ["Porch Light"]


def test_words_are_checked_while_they_are_written(person: Person, open_studio) -> None:
    """Lyrics the model reads otherwise than they look would be sung wrong without a warning."""
    studio = open_studio(person)
    page = studio.page
    page.get_by_role("button", name="Verse", exact=True).click()
    page.keyboard.type("hello again\n")
    page.get_by_role("button", name="Verse", exact=True).click()
    lyrics = page.get_by_label("Lyrics", exact=True)
    expect(lyrics).to_have_value("[Verse 1]\nhello again\n\n[Verse 2]\n")
    expect(page.locator(".seen")).to_contain_text("2 words")
    expect(page.locator(".seen")).to_contain_text("[Verse 2] has no words.")
    lyrics.fill("(chorus)\nla la")
    page.get_by_text("As the model reads it").click()
    expect(page.locator(".normalised")).to_have_text("[Chorus]\nla la")
    page.get_by_label("Style", exact=True).fill("vibra")
    page.get_by_role("button", name="vibraphone", exact=True).click()
    expect(page.locator(".chip")).to_have_text("vibraphone")
    page.reload()
    expect(lyrics).to_have_value("(chorus)\nla la")
    studio.button("Clear").click()
    expect(lyrics).to_have_value("")
    studio.button("Undo").click()
    expect(lyrics).to_have_value("(chorus)\nla la")


def test_what_the_service_refuses_is_said_at_its_field(person: Person, open_studio) -> None:
    """Somebody would press the button again and again and never learn why nothing happens."""
    studio = open_studio(person)
    with studio.cut_off():
        studio.button("Make song").click()
        expect(studio.page.get_by_role("alert")).to_have_text(
            "Write a few words, or make it an instrumental."
        )
        studio.write("la <|audio|> la")
        expect(studio.page.locator(".seen .problem")).to_contain_text("<|audio|>")
        expect(studio.page.get_by_label("Lyrics", exact=True)).to_have_attribute(
            "aria-invalid", "true"
        )
    assert list(person.client.songs()) == []


def test_settings_go_where_they_belong(person: Person, open_studio) -> None:
    """A slider that is not sent, or sent as something else, would be a lie."""
    studio = open_studio(person)
    page = studio.page
    page.get_by_text("More settings").click()
    studio.assert_fits()
    page.get_by_label("Title", exact=True).fill("Settings")
    page.get_by_label("Seed", exact=True).fill("41")
    page.get_by_role("radio", name="8", exact=True).check(force=True)
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("Length", exact=True).fill("12")
    page.get_by_role("radio", name="2", exact=True).first.check(force=True)
    page.get_by_role("switch", name="Instrumental, no voice").check(force=True)
    page.get_by_role("switch", name="Listen while it is written").uncheck(force=True)
    studio.button("Make 2 songs").click()
    expect(studio.row("Settings")).to_have_count(2)
    requests = [one.told["request"] for one in person.client.songs()]
    assert sorted(one["seed"] for one in requests) == [41, 42]
    for one in requests:
        told = (one["instrumental"], one["levels"], one["temperature"], one["duration"])
        assert told == (True, 8, 0.7, 12.0)


def test_a_song_that_is_stopped_keeps_what_is_finished(person: Person, open_studio) -> None:
    """Minutes of work would be thrown away by a click."""
    studio = open_studio(person)
    studio.write(WORDS, tags="slow", listen=True)
    title = "I left the light"
    expect(studio.panel.locator(".rail-steps .now")).to_have_text(re.compile("Detail"))
    expect(studio.panel.locator(".making-head")).to_contain_text("left")
    studio.button("Stop", within=studio.panel).click()
    expect(studio.panel).to_contain_text("What was finished is kept and can be heard.")
    expect(studio.row(title).locator(".state")).to_have_text("Stopped")
    (song,) = person.client.songs()
    assert song.state == "cancelled"
    assert song.heard[-1] >= 2
    expect(studio.player).to_have_attribute("data-levels", str(song.heard[-1]))
    studio.button("Go on", within=studio.panel).click()
    studio.button("Pause", within=studio.panel).click()
    expect(studio.row(title).locator(".state")).to_have_text("Paused")


def test_a_song_that_failed_says_why_and_can_be_tried_again(person: Person, open_studio) -> None:
    """Failures would be opaque, and everything would have to be typed again."""
    person.song("Unlucky", prompt="broken")
    studio = open_studio(person)
    expect(studio.row("Unlucky").locator(".state")).to_have_text("Failed")
    studio.open("Unlucky")
    expect(studio.panel.locator(".problem")).to_contain_text("superres failed")
    expect(studio.button("Play Unlucky", within=studio.panel)).to_be_visible()
    studio.button("Try again", within=studio.panel).click()
    expect(studio.panel.locator(".problem")).to_contain_text("superres failed")
    studio.page.get_by_role("radio", name="Failed").check(force=True)
    expect(studio.rows).to_have_count(1)
    studio.page.get_by_role("radio", name="Kept").check(force=True)
    expect(studio.page.get_by_text("No song fits.")).to_be_visible()


def test_a_sketch_becomes_sharper_while_it_plays(person: Person, open_studio) -> None:
    """The player would stop, jump back, or stay rough when more levels are there."""
    song = person.finished("Growing", levels=2, duration=30.0)
    studio = open_studio(person)
    studio.open("Growing")
    expect(studio.panel).to_contain_text("A sketch: rough")
    studio.button("Play Growing", within=studio.panel).click()
    expect(studio.player).to_have_attribute("data-levels", "2")
    studio.wait_heard(1)
    watch = "new MutationObserver(() => (window.stops ??= []).push(bar.dataset.playing))"
    studio.page.evaluate(
        f"bar = document.querySelector('.player'); {watch}.observe(bar, "
        "{attributes: true, attributeFilter: ['data-playing']})"
    )
    before_s = studio.heard_s()
    studio.button("To 64 levels", within=studio.panel).click()
    expect(studio.player).to_have_attribute("data-levels", "64")
    assert studio.heard_s() >= before_s
    assert studio.page.evaluate("window.stops ?? []") == []
    levels = studio.panel.get_by_role("group", name="Levels to listen to")
    studio.button("8", within=levels).click()
    expect(studio.player).to_have_attribute("data-levels", "8")
    assert studio.heard_s() >= before_s
    assert person.client.get(song).levels == 64


def test_variants_are_compared_from_the_same_place(person: Person, open_studio) -> None:
    """Nobody could tell which one is better if each began anew."""
    song = person.finished("Twins", duration=20.0, levels=2)
    person.client.wait(person.client.variants(song)[0].id)
    studio = open_studio(person)
    studio.row("Twins A").locator(".row-main").click()
    studio.button("Play Twins", within=studio.panel).click()
    studio.wait_heard(1)
    studio.page.keyboard.press("ArrowRight")
    studio.page.keyboard.press("ArrowRight")
    studio.wait_heard(10)
    at_s = studio.heard_s()
    studio.panel.get_by_role("button", name=re.compile("Variant B")).click()
    expect(studio.row("Twins B")).to_have_class(re.compile("heard"))
    expect(studio.player).to_have_attribute("data-playing", "playing")
    assert at_s <= studio.heard_s() <= at_s + 5


def test_another_variant_and_the_same_settings_again(person: Person, open_studio) -> None:
    """What somebody liked could not be had once more."""
    person.finished("Once", seed=99, temperature=0.8)
    studio = open_studio(person)
    studio.open("Once")
    studio.button("Another variant").click()
    expect(studio.row("Once")).to_have_count(2)
    studio.button("Use these settings again").click()
    expect(studio.page.get_by_label("Lyrics", exact=True)).to_have_value("[Verse]\nla la la")
    studio.page.get_by_text("More settings").click()
    expect(studio.page.get_by_label("Seed", exact=True)).to_have_value("99")
    expect(studio.page.get_by_label("Temperature")).to_have_value("0.8")


def test_rename_keep_and_search(person: Person, open_studio) -> None:
    """A song could not be found again among many."""
    person.finished("Nameless")
    person.finished("Another", prompt="jazz, harp")
    studio = open_studio(person)
    studio.open("Nameless")
    studio.button("Rename").click()
    title = studio.panel.get_by_role("textbox", name="Title")
    title.fill("窗 & <b>rain</b>")
    title.press("Enter")
    expect(studio.row("窗 & <b>rain</b>")).to_be_visible()
    studio.button("Keep 窗 & <b>rain</b>").click()
    studio.page.get_by_role("radio", name="Kept").check(force=True)
    expect(studio.rows).to_have_count(1)
    studio.page.get_by_role("radio", name="All").check(force=True)
    studio.page.keyboard.press("/")
    studio.page.get_by_role("searchbox").fill("harp JAZZ")
    expect(studio.rows).to_have_count(1)
    expect(studio.row("Another")).to_be_visible()
    kept = [one.title for one in person.client.songs(kept="true")]
    assert kept == ["窗 & <b>rain</b>"]


def test_many_songs_come_in_pages(person: Person, open_studio) -> None:
    """Old songs would be out of reach, or a large list would never load."""
    for number in range(3):
        person.song(f"Page {number}", duration=1.0, n=4, levels=2)
    studio = open_studio(person)
    expect(studio.rows).to_have_count(12)
    # pages of five songs, as if there were hundreds
    studio.page.route(
        re.compile(r"/v1/songs\?limit=50"),
        lambda route: route.continue_(url=route.request.url.replace("limit=50", "limit=5")),
    )
    studio.page.reload()
    expect(studio.rows).to_have_count(5)
    expect(studio.rows.first).to_contain_text("Page 2")
    studio.button("Show more").click()
    expect(studio.rows).to_have_count(10)
    studio.button("Show more").click()
    expect(studio.rows).to_have_count(12)
    expect(studio.button("Show more")).to_have_count(0)


def test_delete_can_be_undone_and_is_done_then(person: Person, open_studio) -> None:
    """A slip of the finger would cost a song, or a deleted one would stay for ever."""
    person.finished("First")
    person.finished("Second")
    studio = open_studio(person)
    studio.open("First")
    studio.button("Delete").click()
    expect(studio.row("First")).to_have_count(0)
    expect(studio.panel).to_have_count(0)
    studio.button("Undo").click()
    expect(studio.row("First")).to_have_count(1)
    studio.open("Second")
    studio.button("Delete").click()
    # whoever closes the tab does not wait for the time of undoing to be over
    studio.page.goto("about:blank")
    until_s = time.monotonic() + 10
    while [one.title for one in person.client.songs()] != ["First"]:
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_download_in_every_format(person: Person, open_studio, tmp_path: Path) -> None:
    """A song that cannot leave the browser is no song."""
    person.finished("Take/away")
    studio = open_studio(person)
    studio.open("Take/away")
    heads = {"WAV": b"RIFF", "FLAC": b"fLaC", "MP3": None, "OPUS": b"OggS", ".khala": None}
    for name, head in heads.items():
        with studio.page.expect_download() as download:
            studio.button(name, within=studio.panel).click()
        path = tmp_path / name.lower().strip(".")
        download.value.save_as(path)
        assert download.value.suggested_filename.endswith(path.name)
        assert path.stat().st_size > 500
        assert head is None or head in path.read_bytes()[:20_000]
    with wave.open(str(tmp_path / "wav")) as sound:
        assert sound.getframerate() == 44_100


def test_import_of_a_song_file_and_of_a_recording(
    person: Person, open_studio, tmp_path: Path
) -> None:
    """A song that a friend sent could not be opened."""
    song = person.finished("Sent by a friend", levels=8)
    (tmp_path / "From afar.khala").write_bytes(person.client.file(song))
    (tmp_path / "Humming.wav").write_bytes(person.client.audio(song, format="wav"))
    person.client.delete(song)
    studio = open_studio(person)
    chooser = studio.page.locator("input[type=file]")
    chooser.set_input_files([tmp_path / "From afar.khala", tmp_path / "Humming.wav"])
    studio.wait_done("From afar")
    studio.wait_done("Humming")
    studio.open("From afar")
    expect(studio.panel).to_contain_text("la la la")
    expect(studio.button("To 64 levels", within=studio.panel)).to_be_visible()
    (tmp_path / "broken.wav").write_bytes(b"no sound at all" * 100)
    with studio.cut_off():
        chooser.set_input_files(tmp_path / "broken.wav")
        expect(studio.page.get_by_role("alert")).to_be_visible()


def test_a_song_of_the_real_model(browser, open_studio, tmp_path: Path) -> None:  # noqa: ARG001
    """Everything would work with a pretended model, and nothing with the one that is shipped."""
    service = Running(data=tmp_path / "data", fake=False)
    try:
        service.start()
        service.wait_worker(timeout_s=120.0)
        person = Person(url=f"http://127.0.0.1:{service.port}", token=token_of(service))
        studio: Studio = open_studio(person)
        studio.write(WORDS, tags="pop, piano, female vocal", listen=True)
        bar = studio.player
        expect(bar).to_have_attribute("data-levels", "0", timeout=30_000)
        expect(bar).to_have_attribute("data-playing", "playing")
        expect(bar).to_have_attribute("data-levels", "64", timeout=90_000)
        assert studio.heard_s() >= 1
        studio.panel.get_by_text("Spectrogram").click()
        expect(studio.panel.locator(".picture img")).to_be_visible()
        expect(studio.panel.locator(".making-card")).to_have_count(0)
        studio.page.goto("about:blank")
    finally:
        service.stop()


def token_of(service: Running) -> str:
    """Return the owner's token, as the service keeps it."""
    import json

    return str(json.loads((service.data / "tokens.json").read_text())["owner"])
