"""The page in a browser: each tab does its work with nano. The pictures of docs/images are made here."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opentar.page.texts import Texts

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TABS = ("draw", "ask", "edit", "dialect", "live")
WIDTHS = {"desktop": 1100, "phone": 390}
NAMELESS = """
() => [...document.querySelectorAll('button, input, textarea, select, a[href], [role=slider], [role=tab]')]
  .filter((one) => one.checkVisibility() && one.type !== 'file' && !one.closest('[aria-hidden=true]'))
  .filter((one) => !(one.ariaLabel || one.title || one.innerText?.trim() || one.alt
    || (one.getAttribute('aria-labelledby') && document.getElementById(one.getAttribute('aria-labelledby')))
    || [...(one.labels ?? [])].some((label) => label.innerText.trim())))
  .map((one) => one.outerHTML.slice(0, 200))
"""


def go(page: Any, tab: str, lang: str = "en") -> None:
    """To a tab, wherever the page has it."""
    page.get_by_role("tab", name=Texts(lang)(tab), exact=True).click()


def draw(page: Any, prompt: str, seed: int = 3, more: int = 0, lang: str = "en") -> None:
    """Draw a picture with a seed, and wait for it."""
    if not page.is_visible("#seed input"):
        page.locator("#draw-settings > button").click()
        page.locator("#random-seed input").uncheck()
    page.fill("#seed input", str(seed))
    page.fill("#prompt textarea", prompt)
    page.click("#draw")
    told(page, "#draw-status", Texts(lang)("gallery_seed", seed=seed + more))
    page.wait_for_selector("#draw:visible")


def told(page: Any, where: str, text: str) -> None:
    """Wait until an element says so."""
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.innerText.includes(text)", arg=[where, text]
    )


def pixels(page: Any, where: str) -> bytes:
    """The picture that an element shows."""
    page.wait_for_function(
        "(where) => { const one = document.querySelector(where + ' img'); return one?.complete && one.naturalWidth }",
        arg=where,
    )
    source = page.locator(f"{where} img").first.evaluate("(one) => one.src")
    return Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB").tobytes()


@pytest.fixture
def keep(root: Path) -> Any:
    """Keep a picture of the page for the documents."""

    def kept(page: Any, name: str) -> None:
        page.wait_for_timeout(600)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        assert picture.width == page.viewport_size["width"], "nothing hangs over the side"
        folder = root / "docs" / "images"
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"page-{name}.webp", quality=80, method=6)
        assert (folder / f"page-{name}.webp").stat().st_size < 150_000

    return kept


@pytest.mark.parametrize("size", WIDTHS)
def test_draw_describe_and_draw_again(open_page, keep, size: str) -> None:
    page = open_page(WIDTHS[size])
    draw(page, "a yellow duck", 1)
    first = pixels(page, "#drawn")
    page.click("#describe")
    told(page, "#described", "yellow")
    # Whatever is still said of the duck does not end up below the apple.
    draw(page, "a red apple", 3)
    assert "yellow" not in page.inner_text("#described")
    assert pixels(page, "#drawn") != first
    told(page, "#gallery", "seed 3")
    page.click("#describe")
    told(page, "#described", "a red apple on a")
    keep(page, f"draw-{size}")
    # The gallery has the newest first; the older one is chosen, and drawn again.
    page.locator("#gallery button:has(img)").nth(1).click()
    page.wait_for_function("() => !document.querySelector('#described').innerText.trim()")
    page.click("#again")
    page.wait_for_function("() => document.querySelectorAll('#gallery button:has(img)').length === 3")
    assert page.input_value("#prompt textarea") == "a yellow duck" and page.input_value("#seed input") == "1"
    assert pixels(page, "#drawn") == first, "the same seed, the same picture"


def test_several_pictures_and_a_stop_in_the_middle(open_page, shown) -> None:
    page = open_page()
    draw(page, "a red apple", 3)
    page.fill("#number input[type=number]", "3")
    page.keyboard.press("Tab")
    draw(page, "a red apple", 20, more=2)
    assert page.locator("#gallery button:has(img)").count() == 4
    page.fill("#number input[type=number]", "8")
    page.keyboard.press("Tab")
    page.click("#draw")
    page.wait_for_selector("#stop:visible")
    page.wait_for_function("() => /code|picture 1/.test(document.querySelector('#draw-status').innerText)")
    page.click("#stop")
    told(page, "#draw-status", "stopped")
    assert page.is_visible("#draw") and not page.is_visible("#stop")
    assert shown.idle(10)
    assert page.locator("#gallery button:has(img)").count() < 12
    page.click("#draw")
    page.wait_for_function("() => /code|picture/.test(document.querySelector('#draw-status').innerText)")
    page.close()
    assert shown.idle(10), "who closes the page lets go of what it runs"


def test_errors_are_told_beside_what_was_asked(open_page) -> None:
    page = open_page()
    page.click("#draw")
    told(page, "#draw-status", "empty")
    draw(page, "a red zyxomma", 3)
    told(page, "#draw-status", "zyxomma")
    page.click("#see-codes")
    page.wait_for_selector("#codes [data-cell]")
    page.fill("#own-code input", "999999")
    page.click("#codes [data-cell='0']")
    page.wait_for_selector("#near input")
    page.click("#replace")
    told(page, "#dialect-status", "from 0 to 4095")
    go(page, "ask")
    page.click("#ask")
    told(page, "#ask-status", "no picture")


@pytest.mark.parametrize("size", WIDTHS)
def test_ask(open_page, keep, apples: Path, size: str) -> None:
    page = open_page(WIDTHS[size])
    go(page, "ask")
    page.set_input_files("#ask-picture input[type=file]", str(apples))
    page.wait_for_selector("#ask-picture img")
    page.fill("#question textarea", "Is there an apple?")
    page.click("#ask")
    told(page, "#chat", "% sure")
    told(page, "#chat", "yes")
    page.wait_for_function("() => !document.querySelector('#question textarea').value")
    page.fill("#question textarea", "What color is the apple?")
    page.keyboard.press("Enter")
    told(page, "#chat", "red")
    keep(page, f"ask-{size}")
    # What somebody writes is text. The page would be found to have asked for it, were it not.
    page.fill(
        "#question textarea", "<img src='https://elsewhere.example/x.png' onerror='document.title=1'> [a](b) **c**"
    )
    page.keyboard.press("Enter")
    told(page, "#chat", "<img src=")
    told(page, "#chat", "**c**")
    page.wait_for_function("() => !document.querySelector('#question textarea').value")
    assert page.locator("#chat img[src*=elsewhere]").count() == 0 and page.title() == "OpenTar"
    page.click("#new-chat")
    page.wait_for_function("() => !document.querySelector('#chat').innerText.includes('apple')")


@pytest.mark.parametrize("size", WIDTHS)
def test_edit_says_what_the_model_can(open_page, keep, size: str) -> None:
    page = open_page(WIDTHS[size])
    go(page, "edit")
    told(page, "#edit-about", "nano does not edit pictures")
    told(page, "#edit-about", "Dialect")
    keep(page, f"edit-{size}")


@pytest.mark.parametrize("size", WIDTHS)
def test_dialect(open_page, keep, apples: Path, size: str) -> None:
    page = open_page(WIDTHS[size])
    draw(page, "a red apple", 3)
    before = pixels(page, "#drawn")
    page.click("#see-codes")
    page.wait_for_selector("#codes [data-cell]")
    assert page.locator("#codes [data-cell]").count() == 36
    page.click("#codes [data-cell='14']")
    told(page, "#cell", "Row 3, column 3")
    page.wait_for_selector("#near input")
    assert page.locator("#near input").count() == 6
    page.locator("#near label").nth(2).click()
    page.click("#replace")
    page.wait_for_selector("#codes .ot-marked")
    told(page, "#dialect-status", "1 of 36 codes changed")
    page.click("#paint")
    told(page, "#dialect-status", "1 of 36")
    page.wait_for_selector("#painted img")
    page.wait_for_timeout(3000)
    assert pixels(page, "#painted") != before
    keep(page, f"dialect-{size}")
    page.locator("#compare-box > button").click()
    page.set_input_files("#other-picture input[type=file]", str(apples))
    page.wait_for_selector("#other-picture img")
    page.click("#compare")
    told(page, "#compared", "of 36 cells differ")
    counted = int(page.inner_text("#compared").split()[0])
    assert counted > 10 and page.locator("#pair .ot-marked").count() == 2 * counted
    keep(page, f"compare-{size}")
    page.click("#undo")
    page.wait_for_function("() => !document.querySelector('#codes .ot-marked')")
    page.get_by_label("fine", exact=True).locator("visible=true").check()
    page.wait_for_function("() => document.querySelectorAll('#codes [data-cell]').length === 144")


@pytest.mark.parametrize("size", WIDTHS)
def test_live(open_page, keep, size: str, tmp_path: Path, shown) -> None:
    page = open_page(WIDTHS[size])
    draw(page, "a red apple", 3)
    content = pixels(page, "#drawn")
    side = round((len(content) / 3) ** 0.5)
    apple, white = Image.frombytes("RGB", (side, side), content), Image.new("RGB", (side, side), "white")
    pictures = [apple, white, white.copy(), apple]
    # A writer joins frames that are the same; the model does not see this point.
    pictures[2].putpixel((0, 0), (254, 255, 255))
    pictures[0].save(tmp_path / "film.webp", save_all=True, append_images=pictures[1:], duration=500, lossless=True)
    go(page, "live")
    page.set_input_files("#film input[type=file]", str(tmp_path / "film.webp"))
    page.wait_for_function("() => document.querySelector('#film').innerText.includes('film')")
    page.click("#caption")
    told(page, "#live-status", "4 frames, 1 skipped")
    told(page, "#captions", "ms")
    assert page.locator("#captions li").count() == 3
    assert "apple" in page.locator("#captions li").last.inner_text()
    keep(page, f"live-{size}")


def test_live_with_a_camera(open_page, shown) -> None:
    page = open_page()
    go(page, "live")
    page.get_by_text("Click to Access Webcam").click()
    page.locator("#camera .capture-button").click()
    told(page, "#captions", "ms")
    told(page, "#live-status", "frames")
    page.locator("#camera .capture-button").click()
    assert shown.idle()


@pytest.mark.parametrize("size", WIDTHS)
def test_everything_has_a_name_and_nothing_hangs_over(open_page, size: str) -> None:
    page = open_page(WIDTHS[size])
    for tab in TABS:
        go(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate(NAMELESS) == [], tab
        assert page.evaluate("() => document.documentElement.scrollWidth") <= WIDTHS[size], tab


def test_by_keyboard_alone(open_page) -> None:
    page = open_page()
    page.locator("#prompt textarea").focus()
    page.keyboard.type("a red apple")
    page.keyboard.press("Enter")
    told(page, "#draw-status", "seed")
    page.wait_for_selector("#draw:visible")
    reach(page, "#see-codes")
    page.keyboard.press("Enter")
    page.wait_for_selector("#codes [data-cell]")
    reach(page, "#codes [data-cell]")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "End"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    told(page, "#cell", "Row 3, column 6")
    assert page.evaluate("() => document.activeElement.dataset.cell") == "17", "the focus stays"
    page.wait_for_selector("#near input")
    reach(page, "#near input")
    page.keyboard.press("ArrowRight")
    reach(page, "#replace")
    page.keyboard.press("Enter")
    told(page, "#dialect-status", "1 of 36 codes changed")
    reach(page, "#paint")
    page.keyboard.press("Enter")
    page.wait_for_selector("#painted img")


def reach(page: Any, where: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(where) => document.activeElement.matches(where)", where):
            return
    raise AssertionError(f"{where} cannot be reached")


def test_chinese(open_page, keep) -> None:
    page = open_page(WIDTHS["phone"], address="/ui", locale="zh-CN")
    assert page.evaluate("() => document.documentElement.lang") == "zh-CN"
    for tab in TABS:
        assert page.get_by_role("tab", name=Texts("zh")(tab), exact=True).count() >= 1
    draw(page, "一个红色苹果", 6, lang="zh")
    page.click("#describe")
    told(page, "#described", "apple")
    keep(page, "draw-zh")
    page.click("#ask-about")
    page.wait_for_selector("#ask-picture img")
    page.fill("#question textarea", "图中有苹果吗？")
    page.click("#ask")
    told(page, "#chat", "把握")
    page.get_by_role("link", name="English").click()
    page.wait_for_selector("#prompt textarea")
    told(page, "#draw", "Draw")


def test_without_a_camera_the_page_works(browser, shown, apples: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    page.goto(f"{shown.url}/ui/en/")
    page.wait_for_selector("#prompt textarea", timeout=90_000)
    for tab in TABS:
        go(page, tab)
    go(page, "ask")
    page.set_input_files("#ask-picture input[type=file]", str(apples))
    page.fill("#question textarea", "Is there an apple?")
    page.click("#ask")
    page.wait_for_function("() => document.querySelector('#chat').innerText.includes('% sure')", timeout=90_000)
    context.close()
