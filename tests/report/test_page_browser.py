"""`report.html` in a real browser: it sorts, filters, opens, copies out, fits a phone, and asks nobody for anything."""

import dataclasses
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pytest
from browser import asked_for, chromium, complaints, show
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from synthetic import accuracy_row, failure_row, small_run, time_row

from jaxbp.measure.limits import Limits
from jaxbp.report.html.page import RAW, SCRIPTS, write_page
from jaxbp.report.run import Run

NASTY = "<script>alert(1)</script>&<img src=x onerror=alert(1)>"
CENSUS = Path(__file__).parents[2] / "results" / "census" / "sigmoid-float32"
T = TypeVar("T")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("page with a space")
    shutil.copytree(CENSUS, folder / "census" / CENSUS.name)
    nasty: dict[str, Any] = {"op": NASTY, "engine": "autodiff"}
    rows = [
        time_row(**nasty),
        accuracy_row(**nasty),
        failure_row('it, or "she"\nbroke', op="exp", engine="rule:output"),
    ]
    run = small_run(folder / "machine" / "run", *rows)
    limits = Limits("cpu", "float32", ((2**24, 40e9), (2**27, 10e9)), ((512, 100e9),))
    run = dataclasses.replace(run, machine={**run.machine, "limits": [dataclasses.asdict(limits)]})
    write_page([run], run.folder / "report.html", ["results/gone/machine.json cannot be read."])
    return run


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        yield driver


@pytest.fixture
def page(driver: Chrome, shown: Run) -> Iterator[Chrome]:
    """The page, freshly opened; afterwards it has complained of nothing, and asked for nothing but itself."""
    address = (shown.folder / "report.html").resolve().as_uri()
    show(driver, 1280, 900)
    driver.get("about:blank")
    asked_for(driver)
    complaints(driver)
    driver.get(address)
    yield driver
    assert complaints(driver) == []
    asked = {url.partition("#")[0] for url in asked_for(driver) if not url.startswith(("data:", "blob:"))}
    assert asked == {address}


def until(driver: Chrome, holds: Callable[[Chrome], T]) -> T:
    return WebDriverWait(driver, 10, poll_frequency=0.05).until(holds)


def ops(driver: Chrome) -> list[str]:
    return [link.text for link in driver.find_elements(By.CSS_SELECTOR, "#ops tbody a")]


def run_script(driver: Chrome, script: str, *args: Any) -> Any:
    return driver.execute_script(script, *args)


def test_the_table_sorts_by_keyboard_and_says_so(page):
    assert ops(page) == ["sigmoid", "matmul", NASTY, "exp"]
    (button,) = page.find_elements(By.CSS_SELECTOR, '#ops th[data-name="op"] [role="button"]')
    heading = page.find_element(By.CSS_SELECTOR, '#ops th[data-name="op"]')
    for pressed, (direction, order) in enumerate((("ascending", sorted), ("descending", lambda x: sorted(x)[::-1]))):
        button.send_keys(Keys.ENTER)
        until(page, lambda _, d=direction: heading.get_attribute("aria-sort") == d)
        assert ops(page) == order([NASTY, "exp", "matmul", "sigmoid"]), pressed
    # What has no answer comes last, in either direction of the others.
    button = page.find_element(By.CSS_SELECTOR, '#ops th[data-name="fwd_bwd"] [role="button"]')
    button.send_keys(Keys.ENTER)
    assert sorted(ops(page)[:2]) == ["matmul", "sigmoid"]


def test_the_table_filters(page):
    search = page.find_element(By.NAME, "op")
    search.send_keys("mat")
    assert ops(page) == ["matmul"]
    assert page.find_element(By.ID, "shown").text == "1 of 4 rows"
    search.clear()
    search.send_keys(" ")
    right = page.find_element(By.NAME, "right")
    right.send_keys("NO")
    assert ops(page) == ["exp"]
    page.find_element(By.CSS_SELECTOR, "#filters button").click()
    until(page, lambda _: len(ops(page)) == 4)


def test_an_op_opens_with_its_pictures(page):
    page.find_element(By.LINK_TEXT, "sigmoid").click()
    dialog = until(page, lambda _: page.find_element(By.CSS_SELECTOR, "dialog[open]"))
    until(page, lambda _: len(dialog.find_elements(By.CSS_SELECTOR, ".chart")) == 4)
    labels = [svg.get_attribute("aria-label") for svg in dialog.find_elements(By.CSS_SELECTOR, "svg[aria-label]")]
    assert "Worst error against time of each engine of sigmoid" in labels
    assert "Time of each engine of sigmoid against entries" in labels
    assert "Bytes that each engine of sigmoid keeps and allocates" in labels
    assert "Worst error of each binade of sigmoid, every float32, x > 0" in labels
    assert page.switch_to.active_element.get_attribute("id") == "detail-title"
    # Of the plane one mark an engine, and no mark outside the picture.
    plane = "svg[aria-label^='Worst error against time']"
    marks = len(dialog.find_elements(By.CSS_SELECTOR, f"{plane} [stroke-width='0.8'] > path"))
    assert marks == 4
    rows = [row.text for row in dialog.find_elements(By.CSS_SELECTOR, "[data-engines] tbody tr")]
    assert [row.split()[0] for row in rows] == ["rule:stable", "autodiff", "central_difference", "numpy"]
    assert "faster" in rows[0]
    dialog.find_element(By.CSS_SELECTOR, "[data-case]").send_keys("small")
    until(page, lambda _: "1.06 ms" in dialog.find_element(By.CSS_SELECTOR, "[data-engines]").text)
    # The next op, and back to the table where it was left.
    dialog.find_element(By.LINK_TEXT, "Next").click()
    until(page, lambda _: page.find_element(By.ID, "detail-title").text == "matmul, float32")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(page, lambda _: not page.find_elements(By.CSS_SELECTOR, "dialog[open]"))
    assert page.switch_to.active_element.text == "sigmoid"


def test_the_roofline_is_drawn_when_it_is_opened_and_leads_to_the_ops(page):
    details = page.find_element(By.CSS_SELECTOR, "[data-roofline]")
    assert not details.find_elements(By.TAG_NAME, "svg")
    details.find_element(By.TAG_NAME, "summary").click()
    drawn = "svg[aria-label='Operations a second against operations a byte of each op, float32']"
    until(page, lambda _: details.find_elements(By.CSS_SELECTOR, drawn))
    links = details.find_elements(By.CSS_SELECTOR, f"{drawn} a")
    addresses = {run_script(page, "return arguments[0].href.baseVal", link) for link in links}
    assert {"#matmul-float32", "#sigmoid-float32"} <= addresses
    page.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", links[0])
    until(page, lambda _: page.find_elements(By.CSS_SELECTOR, "dialog[open]"))


def test_an_address_opens_an_op_whatever_its_name(page, shown):
    page.find_element(By.LINK_TEXT, NASTY).click()
    title = until(page, lambda _: page.find_element(By.ID, "detail-title"))
    assert title.text == f"{NASTY}, float32"
    page.back()
    until(page, lambda _: not page.find_elements(By.CSS_SELECTOR, "dialog[open]"))
    # Its data, the settings and the scripts of the page: none that a name has brought in.
    assert run_script(page, "return document.scripts.length") == len(ops(page)) + len(RAW) + 1 + 1 + len(SCRIPTS)


def downloaded(driver: Chrome, folder: Path, press: Callable[[], None]) -> pd.DataFrame:
    press()
    (path,) = until(driver, lambda _: list(folder.glob("*.csv")))
    text = path.read_text(encoding="utf-8")
    path.unlink()
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])


def test_the_raw_table_can_be_downloaded(page, shown, downloads):
    details = page.find_element(By.CSS_SELECTOR, "main [data-raw]")
    details.find_element(By.TAG_NAME, "summary").click()
    button = until(page, lambda _: details.find_element(By.CSS_SELECTOR, "button.buttons-csv"))
    frame = downloaded(page, downloads, button.click)
    assert list(frame.columns) == list(shown.summary.columns)
    assert frame["op"].tolist() == shown.summary["op"].tolist()
    assert frame["time_us"].tolist() == pytest.approx(shown.summary["time_us"].tolist(), nan_ok=True)
    assert frame["reason"].fillna("").tolist() == shown.summary["reason"].tolist()
    # What is searched for is what comes.
    details.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("matmul")
    until(page, lambda _: "(of 18)" in details.find_element(By.CSS_SELECTOR, ".dt-info").text)
    assert set(downloaded(page, downloads, button.click)["op"]) == {"matmul"}


def test_the_raw_numbers_of_an_op_are_its_own(page, shown, downloads):
    page.find_element(By.LINK_TEXT, "sigmoid").click()
    details = until(page, lambda _: page.find_element(By.CSS_SELECTOR, "dialog [data-raw]"))
    run_script(page, "arguments[0].open = true", details)
    until(page, lambda _: details.find_elements(By.CSS_SELECTOR, "button.buttons-csv"))
    details.find_element(By.TAG_NAME, "select").send_keys("accuracy")
    until(page, lambda _: "max_ulp" in details.find_element(By.TAG_NAME, "thead").text)
    frame = downloaded(page, downloads, details.find_element(By.CSS_SELECTOR, "button.buttons-csv").click)
    own = shown.accuracy.query("op == 'sigmoid'")
    assert frame["max_ulp"].tolist() == pytest.approx(own["max_ulp"].tolist())
    # Copied, too, as a paste shows.
    details.find_element(By.CSS_SELECTOR, "button.buttons-copy").click()
    until(page, lambda _: details.find_element(By.TAG_NAME, "output").text == f"Copied {len(own)} rows.")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    search = page.find_element(By.NAME, "op")
    search.send_keys(Keys.CONTROL, "v")
    pasted = str(search.get_attribute("value"))
    assert pasted.startswith("op\top_version\tcase")
    assert pasted.count("sigmoid\t") == len(own)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone(page, theme):
    show(page, 390, 844, theme)
    fits = "return document.scrollingElement.scrollWidth <= innerWidth"
    assert run_script(page, fits)
    ground = run_script(page, "return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[theme]
    run_script(page, "location.hash = 'sigmoid-float32'")
    dialog = until(page, lambda _: page.find_element(By.CSS_SELECTOR, "dialog[open]"))
    until(page, lambda _: dialog.find_elements(By.CSS_SELECTOR, ".chart"))
    assert run_script(page, "const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")


def busy(driver: Chrome) -> float:
    """Seconds that the page has computed, whatever else the machine was doing meanwhile."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def test_a_hundred_thousand_rows_open_soon_and_stay_quick(driver, shown, tmp_path):
    rows = 100_000
    accuracy = pd.concat([shown.accuracy] * (rows // len(shown.accuracy) + 1), ignore_index=True)[:rows]
    accuracy = accuracy.assign(case=[f"case-{i}" for i in range(rows)])
    page = write_page([dataclasses.replace(shown, accuracy=accuracy)], tmp_path / "large.html")
    show(driver, 1280, 900)
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    took = {}

    def timed(name: str, wish: str) -> None:
        start = busy(driver)
        run_script(driver, wish)
        # What was wished for has been painted.
        driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        took[name] = busy(driver) - start

    start = busy(driver)
    driver.get(page.as_uri())
    took["open"] = busy(driver) - start
    details = driver.find_element(By.CSS_SELECTOR, "main [data-raw]")
    details.find_element(By.TAG_NAME, "summary").click()
    until(driver, lambda _: details.find_elements(By.CSS_SELECTOR, ".dt-info"))
    show_table = "const s = document.querySelector('main [data-raw] select'); s.value = 'accuracy';"
    timed("show", f"{show_table} s.dispatchEvent(new Event('change'))")
    assert "of 100,000 rows" in details.find_element(By.CSS_SELECTOR, ".dt-info").text
    timed("turn", "document.querySelector('main .dt-paging-button.next').click()")
    timed("sort", "document.querySelector('main [data-raw] th .dt-column-order').click()")
    timed("search", "new DataTable.Api('main [data-raw] table').search('case-77777').draw()")
    assert "1 to 1 of 1 rows" in details.find_element(By.CSS_SELECTOR, ".dt-info").text
    assert took["open"] < 2
    assert took["show"] < 2
    assert took["sort"] < 2
    assert took["search"] < 2
    assert took["turn"] < 0.5
