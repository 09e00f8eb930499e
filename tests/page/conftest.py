"""A service, and Chromium, which looks at its page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from looking import Page, Service

from microlock.server import EtcdServer

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture
def guarded() -> Iterator[Service]:
    """One whose token is "sésame"."""
    service = Service(auth_token="sésame")
    yield service
    service.close()


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer(fast=True) as server:
        yield server


@pytest.fixture
def on_etcd(etcd: EtcdServer) -> Iterator[Service]:
    service = Service(etcd.endpoint)
    yield service
    service.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: make page")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver; on Debian: chromium, chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile: Path = tmp_path_factory.mktemp("profile")
    for each in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: Any) -> Iterator[Page]:
    page = Page(chromium)
    page.look()
    page.complaints()
    yield page
    complaints = page.complaints()
    chromium.get("about:blank")
    assert not complaints
