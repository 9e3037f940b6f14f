"""The studio for every screen, language, and way of using a computer; and at rest."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Browser, expect
from studio import AXE, Person, Studio

NARROW = (360, 740)

IDLE_S = 20.0


def test_a_phone_shows_everything_without_scrolling_sideways(person: Person, open_studio) -> None:
    """Half of a button would be off the screen."""
    person.finished("A title that is much longer than any phone is wide, and then some more of it")
    studio = open_studio(person, size=NARROW, has_touch=True, is_mobile=True)
    expect(studio.rows).to_have_count(1)
    studio.assert_fits()
    studio.rows.first.locator(".row-main").tap()
    expect(studio.panel).to_be_visible()
    studio.panel.get_by_role("button", name="Play").first.tap()
    expect(studio.player).to_have_attribute("data-playing", "playing")
    studio.assert_fits()
    studio.button("Close the song").tap()
    expect(studio.player).to_be_visible()
    studio.assert_fits()
    studio.button("Write").tap()
    studio.page.get_by_text("More settings").tap()
    studio.assert_fits()
    studio.page.get_by_label("Lyrics", exact=True).fill("[Verse]\non the phone")
    studio.button("Make song").tap()
    expect(studio.panel).to_contain_text("on the phone")
    studio.page.evaluate("localStorage.removeItem('khala-token')")
    studio.page.goto("about:blank")
    studio.page.goto(person.url)
    expect(studio.page.get_by_label("Token")).to_be_visible()
    studio.assert_fits()


def test_the_keyboard_is_enough(person: Person, open_studio) -> None:
    """Whoever cannot use a mouse could not make a song."""
    studio = open_studio(person)
    keyboard = studio.page.keyboard
    expect(studio.page.get_by_role("heading", name="Words in")).to_be_visible()
    keyboard.press("n")
    keyboard.type("[Verse]\nonly keys, / and n and ?")
    keyboard.press("Control+Enter")
    expect(studio.panel).to_contain_text("only keys, / and n and ?")
    studio.wait_done("only keys")
    expect(studio.panel).to_be_focused()
    expect(studio.player).to_have_attribute("data-playing", "playing")
    keyboard.press(" ")
    expect(studio.player).to_have_attribute("data-playing", "paused")
    before_s = studio.heard_s()
    keyboard.press("ArrowRight")
    studio.wait_heard(min(before_s + 4, 5))
    keyboard.press("l")
    expect(studio.player).to_have_attribute("data-levels", "2")
    keyboard.press("Escape")
    expect(studio.panel).to_have_count(0)
    keyboard.press("?")
    expect(studio.page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    keyboard.press("Escape")
    expect(studio.page.get_by_role("dialog")).to_have_count(0)
    keyboard.press("/")
    keyboard.type("only")
    expect(studio.page.get_by_role("searchbox")).to_have_value("only")
    # from the search on, every control is reached and shows that it is
    seen = set()
    for _ in range(12):
        keyboard.press("Tab")
        seen.add(
            studio.page.evaluate(
                "document.activeElement.ariaLabel ?? document.activeElement.className"
            )
        )
    assert {"row-main", "Keep only keys, / and n and ?"} <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_rules_hold(person: Person, open_studio, scheme: str) -> None:
    """Screen readers would read nonsense, or grey on grey would be too faint."""
    person.finished("Heard and seen")
    person.song("Broken", prompt="broken")
    studio = open_studio(person, color_scheme=scheme, bypass_csp=True)
    studio.page.add_script_tag(content=AXE.read_text())
    studio.page.get_by_label("Lyrics", exact=True).fill("[Verse]\n\n[Chorus]\nla")
    expect(studio.page.locator(".warning")).to_be_visible()
    studio.page.get_by_text("More settings").click()
    assert_accessible(studio)
    studio.open("Broken")
    assert_accessible(studio)
    studio.open("Heard and seen")
    studio.button("Play Heard and seen", within=studio.panel).click()
    studio.panel.get_by_text("Settings", exact=True).click()
    assert_accessible(studio)
    studio.page.keyboard.press("?")
    expect(studio.page.get_by_role("dialog")).to_be_visible()
    assert_accessible(studio)


def test_the_gate_and_the_empty_studio_are_accessible(person: Person, open_studio) -> None:
    """The first thing that anybody meets would be a closed door."""
    for path in ("/", None):
        studio = open_studio(person, path=path, bypass_csp=True)
        expect(studio.page.get_by_role("heading").first).to_be_visible()
        studio.page.add_script_tag(content=AXE.read_text())
        assert_accessible(studio)


def assert_accessible(studio: Studio) -> None:
    """No rule of axe is broken."""
    studio.page.wait_for_timeout(250)  # colours fade in
    found = studio.page.evaluate(
        """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
             .map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 160))])"""
    )
    assert found == [], json.dumps(found, indent=1)


def test_it_speaks_chinese_to_who_does(person: Person, open_studio) -> None:
    """Half of the buttons would be in the wrong language."""
    person.finished("河")
    studio = open_studio(person, locale="zh-CN")
    page = studio.page
    expect(page.get_by_role("heading", name="新歌")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    studio.rows.first.locator(".row-main").click()
    expect(studio.panel.get_by_role("heading", name="下载")).to_be_visible()
    english = page.evaluate(
        """() => [...document.querySelectorAll("button, label, legend, summary, h2, h3, p")]
             .map((one) => one.innerText.trim())
             .filter((text) => /[a-z]{4,}/.test(text) && !/khala|nano|English|la la/.test(text))"""
    )
    assert english == []
    page.get_by_label("语言", exact=True).select_option("en")
    expect(page.get_by_role("heading", name="New song")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="New song")).to_be_visible()


def test_light_and_dark_follow_the_computer_or_the_switch(person: Person, open_studio) -> None:
    """A white page would glare at night."""
    studio = open_studio(person, color_scheme="dark")
    page = studio.page
    expect(page.get_by_label("Light or dark")).to_be_visible()
    assert brightness(studio) < 60
    page.get_by_label("Light or dark").select_option("light")
    assert brightness(studio) > 200
    page.reload()
    expect(page.get_by_label("Light or dark")).to_have_value("light")
    assert brightness(studio) > 200
    page.get_by_label("Light or dark").select_option("auto")
    page.emulate_media(color_scheme="light")
    assert brightness(studio) > 200


def brightness(studio: Studio) -> int:
    """How bright the paper is, 0 to 255."""
    colour = studio.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(colour[colour.index("(") + 1 :].split(",")[0])


def test_an_idle_studio_costs_nothing(browser: Browser, person: Person, open_studio) -> None:
    """A forgotten tab would empty the battery and keep the service busy."""
    song = person.finished("At rest")
    studio = open_studio(person)
    studio.open("At rest")
    studio.button("Play At rest", within=studio.panel).click()
    expect(studio.player).to_have_attribute("data-playing", "playing")
    studio.button("Pause At rest", within=studio.panel).click()
    studio.page.wait_for_timeout(1_500)
    num, before_s = len(studio.requests), renderer_s(browser)
    studio.page.wait_for_timeout(IDLE_S * 1000)
    share = (renderer_s(browser) - before_s) / IDLE_S
    print(f"idle: {100 * share:.2f} % of a core")  # noqa: T201
    assert studio.requests[num:] == []
    assert share < 0.01
    # and it was not asleep
    person.client.change(song, title="Awake")
    expect(studio.row("Awake")).to_be_visible()


def renderer_s(browser: Browser) -> float:
    """Seconds of a core that pages have taken so far."""
    session = browser.new_browser_cdp_session()
    told = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return float(sum(one["cpuTime"] for one in told if one["type"] == "renderer"))
