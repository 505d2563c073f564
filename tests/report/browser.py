"""A headless Chromium that tells what it asked for and what it complained of."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """The browser, with a profile of its own; the test is skipped where there is none."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in found.items() if not path]
    if missing:
        pytest.skip(
            f"The page was not opened in a browser: there is no {' and no '.join(missing)} here. Debian's packages "
            "chromium and chromium-driver bring both: apt-get install chromium chromium-driver"
        )
    options = ChromeOptions()
    options.binary_location = str(found["chromium"])
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Its files are its own: what the session's home says of a desktop does not count.
    service = ChromeService(str(found["chromedriver"]), env={**os.environ, "HOME": str(profile)})
    driver = Chrome(options, service)
    try:
        yield driver
    finally:
        driver.quit()


def show(driver: Chrome, width: int, height: int, theme: str = "light") -> None:
    """Be a screen of this size, in the theme `light` or `dark`."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)


def asked_for(driver: Chrome) -> set[str]:
    """The addresses of all requests since this was last asked."""
    events: list[dict[str, Any]] = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}


def complaints(driver: Chrome) -> list[str]:
    """The console since this was last asked."""
    return [entry["message"] for entry in driver.get_log("browser")]
