"""The report in a browser: it draws, answers mouse and keys, and asks no network for anything."""

import io

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from PIL import Image
from places import REPOSITORY
from reports import configuration, finished_run, report_of

from flare23_lib.report.style import new_figure

VIEWER = REPOSITORY / "vendor" / "niivue"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(not (VIEWER / "niivue.js").exists(), reason="the viewing library is not there (make viewer)"),
]

TAB = ("Tab", 9)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    config = configuration("chain.yaml")
    results = finished_run(folder, config, validation=3)
    with new_figure(results.root / "report" / "figures" / "cohort.svg", 50, 2):
        pass
    return report_of(results, config, VIEWER)


@pytest.fixture
def browser(page, tmp_path):
    with Chromium(tmp_path, 1280, 900) as opened:
        opened.open(page)
        opened.wait_for("document.body && document.body.dataset.shown === 'Case_0'")
        opened.ask("document.getElementById('viewer').scrollIntoView({behavior: 'instant'})")
        yield opened
        assert opened.problems == []
        assert all(address.startswith(("file:", "data:", "blob:", "about:")) for address in opened.requests)


def canvas(browser):
    box = browser.ask("(() => {const b = document.getElementById('viewer-canvas').getBoundingClientRect();"
                      "return [b.left, b.top, b.width, b.height]})()")  # fmt: skip
    return [int(number) for number in box]


def drawn(browser):
    """Return the viewer's pixels, (y, x, 3)."""
    left, top, width, height = canvas(browser)
    picture = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))
    return picture[top : top + height, left : left + width].astype(int)


def colored(pixels):
    return int((np.ptp(pixels, axis=-1) > 40).sum())


def choose(browser, layer):
    browser.ask(f"document.querySelector('input[value={layer}]').click()")
    browser.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def go_to(browser, x, y, z):
    """Put the crosshair on a voxel."""
    browser.ask(f"ctViewer.scene.crosshairPos = ctViewer.vox2frac([{x}, {y}, {z}]); ctViewer.drawScene()")


def slice_shown(browser):
    return browser.ask("Math.round(ctViewer.frac2vox(ctViewer.scene.crosshairPos)[2])")


def said(browser):
    return browser.ask("document.getElementById('viewer-place').textContent")


def test_the_viewer_draws_labels_in_color_and_hides_them(browser):
    go_to(browser, 3, 4, 2)
    choose(browser, "reference")
    with_labels = colored(drawn(browser))
    choose(browser, "none")
    assert with_labels > 2000
    assert colored(drawn(browser)) < with_labels / 10


def test_the_wheel_changes_the_slice(browser):
    go_to(browser, 3, 4, 2)
    left, top, width, height = canvas(browser)
    before = slice_shown(browser)
    browser.mouse("mouseWheel", left + width // 2, top + height // 2, deltaX=0, deltaY=-120)
    browser.wait_for(f"Math.round(ctViewer.frac2vox(ctViewer.scene.crosshairPos)[2]) !== {before}")


def test_a_click_names_the_organ(browser):
    go_to(browser, 19, 15, 2)
    choose(browser, "reference")
    pixels = drawn(browser)
    left, top, _, _ = canvas(browser)
    orange = (pixels[..., 0] - pixels[..., 2] > 60) & (pixels[..., 0] - pixels[..., 1] > 30)
    ys, xs = np.nonzero(orange & (pixels[..., 1] > 90))
    middle = len(ys) // 2
    browser.click(left + int(xs[middle]), top + int(ys[middle]))
    browser.wait_for("document.getElementById('viewer-place').textContent.includes('reference liver')")


def test_a_case_of_the_list_is_shown_and_jumps_to_its_largest_error(browser):
    browser.ask("document.querySelectorAll('#viewer-cases button')[2].click()")
    browser.wait_for("document.body.dataset.shown === 'Case_2'")
    go_to(browser, 0, 0, 0)
    browser.ask("document.getElementById('viewer-error').click()")
    words = said(browser)
    reference, prediction = words.split("reference ")[1].split(", prediction ")
    assert reference != prediction.split(" (")[0]
    assert browser.ask("document.querySelector('#viewer-cases [aria-current=true]').textContent").startswith("Case_2")


@pytest.mark.parametrize("clicks", [(2, 2), (1, 2), (0, 0)])
def test_the_case_chosen_last_is_shown_whole_after_quick_clicks(browser, clicks):
    buttons = "document.querySelectorAll('#viewer-cases button')"
    browser.ask(f"document.body.dataset.shown = ''; {''.join(f'{buttons}[{number}].click();' for number in clicks)}")
    browser.wait_for(f"document.body.dataset.shown === 'Case_{clicks[-1]}'")
    names = browser.ask("ctViewer.volumes.map(volume => volume.name)")
    assert names == ["image.nii.gz", "reference.nii.gz", "prediction.nii.gz"]
    assert said(browser).startswith(f"Case_{clicks[-1]}")


def test_the_keyboard_reaches_every_control_and_moves_through_slices(browser):
    wanted = {"viewer-canvas", "viewer-opacity", "viewer-planes", "Case_0", "Case_1", "Case_2", "prediction"}
    reached = set()
    for _ in range(60):
        browser.press(*TAB)
        reached.add(browser.ask("(e => e.id || e.dataset.name || e.value || e.textContent)(document.activeElement)"))
        if browser.ask("document.activeElement.id === 'viewer-canvas'"):
            go_to(browser, 3, 4, 2)
            browser.press("ArrowUp", 38)
            assert slice_shown(browser) == 3
            browser.press("ArrowDown", 40)
            assert slice_shown(browser) == 2
        if browser.ask("document.activeElement.dataset.name === 'Case_1'"):
            browser.press("Enter", 13, "\r")
            browser.wait_for("document.body.dataset.shown === 'Case_1'")
    assert wanted <= reached


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_wider_than_the_window_and_nothing_overlaps(browser, width):
    browser.resize(width, 900)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    overlaps = browser.ask("""(() => {
      const found = [];
      document.querySelectorAll("section").forEach((section) => {
        let end = -Infinity;
        for (const child of section.children) {
          const box = child.getBoundingClientRect();
          if (box.height && box.top < end - 1) found.push(section.id + ": " + child.outerHTML.slice(0, 80));
          if (box.right > innerWidth + 1) found.push("wide: " + child.outerHTML.slice(0, 80));
          end = Math.max(end, box.bottom);
        }
      });
      return found;
    })()""")
    assert overlaps == []


def test_a_wide_figure_stays_legible_and_scrolls_in_its_frame(browser):
    wide = browser.ask("""(() => {
      const image = document.querySelector("#cohort img"), frame = image.parentElement;
      return [image.clientWidth / image.naturalWidth, frame.scrollWidth / frame.clientWidth];
    })()""")
    assert wide[0] == pytest.approx(0.75, abs=0.01)
    assert wide[1] > 2


def test_the_page_follows_a_dark_scheme(browser):
    light = browser.ask("getComputedStyle(document.body).backgroundColor")
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert light == "rgb(255, 255, 255)"
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 25, 31)"
