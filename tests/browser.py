"""A real browser for tests: Chromium without a window, and what it complains of."""

import json
import shutil
from contextlib import contextmanager
from importlib.util import find_spec

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
_OWN_SCHEMES = ("data:", "blob:", "about:")  # nothing is fetched for these
# What no page of ours asks for: its icon, and what is in the tab that the browser opens with.
_UNASKED = ("/favicon.ico", "chrome-untrusted://")


def missing_browser():
    """Return what a browser test lacks here, as a reason to skip it; the empty text is nothing."""
    if find_spec("selenium") is None:
        return "needs selenium"
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    packages = "as of Debian's packages chromium and chromium-driver"
    return f"needs {' and '.join(missing)}, {packages}" if missing else ""


@contextmanager
def chromium(profile, size=(1400, 900)):
    """Start Chromium with an empty profile.

    Parameters
    ----------
    profile : Path
        Folder for the profile.
    size : tuple of int, default=(1400, 900)
        Width and height of the window.

    Yields
    ------
    selenium.webdriver.Chrome
    """
    # Imported here: where it is missing, missing_browser tells.
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = (f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}")
    for flag in (*_FLAGS, *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def open_quietly(driver, url):
    """Open a page in a browser, and give what went wrong.

    Parameters
    ----------
    driver : selenium.webdriver.Chrome
    url : str

    Returns
    -------
    errors : list of str
        Warnings and errors in the console, and exceptions that nobody caught.
    failed : list of str
        Requests that failed, or were answered with an error.
    """
    for log in ("browser", "performance"):
        driver.get_log(log)  # what was there before
    driver.get(url)
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 200))"
    )
    return console_errors(driver), failed_requests(network_events(driver))


def console_errors(driver):
    """Return the warnings and errors that have come to the console since the last call."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] in ("WARNING", "SEVERE")
        and not any(f"{path} - " in entry["message"] for path in _UNASKED)
    ]


def network_events(driver):
    """Return (method, parameters) of what the network did since the last call."""
    entries = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [(e["method"], e["params"]) for e in entries if e["method"].startswith("Network.")]


def requested(events):
    """Return the addresses that were asked for, without those that need no fetching."""
    urls = [p["request"]["url"] for method, p in events if method == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(_OWN_SCHEMES)]


def failed_requests(events):
    """Return the addresses that could not be had, with the reason."""
    urls, failed = {}, []
    for method, p in events:
        if method == "Network.requestWillBeSent":
            urls[p["requestId"]] = p["request"]["url"]
        elif method == "Network.loadingFailed" and p["requestId"] in urls:
            # Those that no page asked for are the browser's own.
            failed.append(f"{urls[p['requestId']]}: {p['errorText']}")
        elif method == "Network.responseReceived" and p["response"]["status"] >= 400:
            failed.append(f"{p['response']['url']}: {p['response']['status']}")
    return [text for text in failed if not any(path in text for path in _UNASKED)]
