"""The page in a real browser, offline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwnas.search.report import write_report
from hwnas.search.run_data import RunData

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RunMaker = Callable[..., RunData]
EVIL = "crash:<img src=x onerror=alert(1)></script><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visit:
    """One visit of a page: what it asked for and what it complained about."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body.drawn", timeout=60_000)

    @property
    def outside(self) -> list[str]:
        """Requests other than for the file itself and for data inside it."""
        return [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]

    def drawn_trials(self) -> int:
        """Points of trials that are really in the picture."""
        return int(
            self.page.evaluate(
                """() => {
                  const box = document.querySelector('[data-figure]');
                  const visible = (path) => {
                    const at = path.getBoundingClientRect();
                    return at.width + at.height > 0;
                  };
                  const paths = (uid) => [...box.querySelectorAll(`.trace${uid} .points path`)].filter(visible);
                  return box.calcdata.map((d) => d[0].trace).filter((trace) => trace.meta === 'trial')
                    .reduce((count, trace) => count + paths(trace.uid).length, 0);
                }"""
            )
        )

    def shoot(self, name: str, **options: Any) -> None:
        """Keeps a picture where SCREENSHOTS names a folder."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True, **options)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_offline_quiet_and_complete(make_run: RunMaker, tmp_path: Path, browser: Any, scheme: str) -> None:
    run = make_run()
    visit = Visit(browser, write_report(run, tmp_path / "report.html"), color_scheme=scheme)
    assert visit.outside == []
    assert visit.complaints == []
    assert visit.drawn_trials() == len(run.trials)
    titles = visit.page.eval_on_selector_all(".modebar-btn", "all => all.map((one) => one.dataset.title)")
    assert titles and not [title for title in titles if "hare" in title or "cloud" in title.lower()]
    visit.shoot(f"desktop-{scheme}")
    visit.page.close()


def test_page_on_a_phone_has_no_sideways_scroll(make_run: RunMaker, tmp_path: Path, browser: Any) -> None:
    run = make_run(limits=("latency_ms@cpu <= 0.8", "size_mb <= 0.3"))
    visit = Visit(
        browser, write_report(run, tmp_path / "report.html"), viewport={"width": 390, "height": 844}, has_touch=True
    )
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.complaints == []
    visit.shoot("phone")
    visit.page.close()


def test_page_in_print(make_run: RunMaker, tmp_path: Path, browser: Any) -> None:
    visit = Visit(browser, write_report(make_run(), tmp_path / "report.html"), color_scheme="dark")
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.pdf()[:4] == b"%PDF"
    assert visit.complaints == []
    visit.page.close()


def test_every_view_shows_every_trial(make_run: RunMaker, tmp_path: Path, browser: Any) -> None:
    objectives = (("top1", "maximize"), ("latency_ms@cpu", "minimize"), ("size_mb", "minimize"))
    run = make_run(objectives=objectives, verified=False)
    visit = Visit(browser, write_report(run, tmp_path / "report.html"))
    values = visit.page.eval_on_selector_all("#view option", "all => all.map((one) => one.value)")
    assert len(values) >= 3
    for value in values:
        visit.page.select_option("#view", value)
        visit.page.wait_for_timeout(300)
        assert visit.drawn_trials() == len(run.trials), value
    visit.shoot("views")
    assert visit.complaints == []
    visit.page.close()


def test_table_sorts_and_zoom_moves_the_axes(make_run: RunMaker, tmp_path: Path, browser: Any) -> None:
    visit = Visit(browser, write_report(make_run(), tmp_path / "report.html"))
    page = visit.page
    read = "all => all.map((row) => Number(row.cells[3].dataset.value))"
    page.click("table.sortable thead th:nth-child(4) button")
    up = page.eval_on_selector_all("table.sortable tbody tr", read)
    page.click("table.sortable thead th:nth-child(4) button")
    assert up == sorted(up) and page.eval_on_selector_all("table.sortable tbody tr", read) == up[::-1]
    before = page.evaluate("document.querySelector('[data-figure]')._fullLayout.yaxis.range")
    page.click("[data-zoom=front]")
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('[data-figure]')._fullLayout.yaxis.range") != before
    zoomed = page.evaluate("document.querySelector('[data-figure]')._fullLayout.yaxis.range")
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('[data-figure]')._fullLayout.yaxis.range") == zoomed
    visit.shoot("zoomed")
    assert visit.complaints == []
    page.close()


def test_hostile_strings_stay_text(make_run: RunMaker, tmp_path: Path, browser: Any) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        for row in rows[:20]:
            row |= {"state": "fail", "reason": EVIL, "arch_id": "<b>x</b>", "feasible": False}

    visit = Visit(browser, write_report(make_run(edit=spoil), tmp_path / "report.html"))
    assert visit.page.title() == "digits-edge: hwnas report"
    assert visit.page.locator("img").count() == 0
    visit.page.evaluate(
        """() => {
          const box = document.querySelector('[data-figure]');
          const curve = box.data.findIndex((trace) => trace.xaxis === 'x2');
          Plotly.Fx.hover(box, [{curveNumber: curve, pointNumber: 0}], ['x2' + box.data[curve].yaxis]);
        }"""
    )
    visit.page.wait_for_timeout(200)
    assert "<script>" in (visit.page.locator(".hoverlayer").first.text_content() or "")
    visit.shoot("hostile")
    assert visit.complaints == [] and visit.outside == []
    visit.page.close()


def test_nothing_may_be_fetched_or_run_beside_the_page(make_run: RunMaker, tmp_path: Path, browser: Any) -> None:
    visit = Visit(browser, write_report(make_run(trials=3, verified=False), tmp_path / "report.html"))
    visit.page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = "document.title = 'owned'";
          document.body.append(script);
        }"""
    )
    fetched = visit.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
    assert fetched == "TypeError" and visit.page.title() == "digits-edge: hwnas report"
    assert [text for text in visit.complaints if "script-src" in text or "connect-src" in text]
    visit.page.close()


@pytest.mark.parametrize("trials", [0, 1])
def test_page_of_a_run_with_hardly_a_trial(make_run: RunMaker, tmp_path: Path, browser: Any, trials: int) -> None:
    visit = Visit(browser, write_report(make_run(trials=trials, verified=False), tmp_path / "report.html"))
    assert visit.drawn_trials() == trials
    assert visit.complaints == []
    visit.page.close()
