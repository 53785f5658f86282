"""An explorer file in a real browser: Chromium without a window, driven by Selenium."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Pictures of the tests, kept where this names a folder.
_PICTURES = "VITC_SCREENSHOTS"
#: Why the browser did not start, each time that it has not.
_refusals: list[str] = []


def _installed() -> tuple[str, str]:
    """Chromium and its driver, or a skip that says what to install."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no browser here: apt-get install chromium chromium-driver")
    return browser, driver


@contextmanager
def browser() -> Iterator[Page]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'vitc[dev]'")
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    binary, driver = _installed()
    options = Options()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,943",
                 "--force-device-scale-factor=1", "--disable-background-networking"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = _started(lambda: webdriver.Chrome(options=options, service=Service(driver)))
    try:
        yield Page(opened)
    finally:
        opened.quit()


def _started(start: Callable[[], Any]) -> Any:
    """The browser, which gets a minute of its driver's, three times: a busy machine may need them. One that does not
    start is none: the tests are skipped, with what it said, and no other waits for it."""
    from selenium.common.exceptions import WebDriverException

    for _ in range(3 - len(_refusals)):
        try:
            return start()
        except WebDriverException as error:
            _refusals.append(str(error.msg))
    pytest.skip(f"the browser did not start: {_refusals[-1]}")


class Page:
    """The page in a browser. Names of methods say what a person does."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        driver.set_script_timeout(120)

    def open(self, path: Path, address: str = "") -> Page:
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(path.resolve().as_uri() + address)
        self.wait("window.vitc && window.vitc.graph")
        return self

    def wait(self, condition: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not self.run(f"return !!({condition})"):
            assert time.monotonic() < until, f"never true: {condition}; the page says: {self.text()[:500]}"
            time.sleep(0.02)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def later(self, script: str) -> Any:
        """What a promise gives."""
        return self.driver.execute_async_script(f"const done = arguments[0]; ({script}).then(done);")

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def click(self, text: str, within: str = "body") -> None:
        """The first button, tab or row in sight that begins with a text."""
        found = self.run(
            "return [...document.querySelectorAll(`${arguments[0]} :is(button, tr.link, summary, [role=button])`)]"
            ".find(e => e.textContent.trim().startsWith(arguments[1]) && e.checkVisibility())",
            within,
            text,
        )
        assert found is not None, f"no button {text!r} in {within}: {self.text(within)[:800]}"
        self.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", found)

    def text(self, selector: str = "body") -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText || ''", selector))

    def selected(self) -> str:
        """The name of the selected node, or the path of the selected module."""
        return str(
            self.run(
                "const v = window.vitc, i = v.scene.selected; if (i === null) return ''; "
                "return i >= 0 ? v.graph.node(i).name : v.graph.modules[-1 - i].path"
            )
        )

    def boxes(self) -> list[str]:
        """The titles of what is drawn."""
        return list(self.run("return window.vitc.scene.drawing.boxes.map(b => b.title)"))

    def complaints(self) -> list[str]:
        """What the browser's console says that is no mere information."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]

    def picture(self, name: str) -> None:
        if folder := os.environ.get(_PICTURES):
            time.sleep(0.3)
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))
