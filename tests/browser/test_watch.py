"""The view of what the service is doing: its figures are right, and words say what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from scipy.stats import betabinom

from tests.browser.conftest import Watched
from tests.browser.fakes import ROUTE, SECONDS, Fakes, metrics, page_with_fakes, recent, settings
from tests.processes import Server

EVERY_MS = 2000

Open = Callable[..., tuple[Page, Fakes]]


@pytest.fixture
def open_watch(browser: Browser, server: Server, watched: Watched) -> Iterator[Open]:
    """`open_watch("?minutes=1", metrics=text)`: the view, over fakes, with a clock that a test
    moves by `page.clock.run_for`."""
    pages: list[Page] = []

    def open_one(query: str = "", *, clock: bool = True, **given: object) -> tuple[Page, Fakes]:
        options = {name: given.pop(name) for name in ("width", "dark") if name in given}
        page, fakes = page_with_fakes(browser, watched, **options)
        pages.append(page)
        for name, value in given.items():
            setattr(fakes, name, value)
        if clock:
            page.clock.install()
        page.goto(f"{server.url}/#watch{query}")
        expect(page.locator(".summary")).to_be_visible()
        return page, fakes

    yield open_one
    for page in pages:
        page.context.close()


RANKS = (100, 9901)
"""How many p-values of the bundle, which is calibrated on 10,000 images, are ≤ alpha, and not."""


def section(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def cells(table: Locator, row: str) -> list[str]:
    """The cells of the row with this heading."""
    found = table.get_by_role("row").filter(has=table.page.get_by_role("rowheader", name=row))
    return [text.strip() for text in found.get_by_role("cell").all_inner_texts()]


def poll(page: Page, fakes: Fakes, times: int = 1) -> None:
    """Let the page ask for the metrics again, and draw them."""
    for _ in range(times):
        before = fakes.count("/metrics")
        for _ in range(40):
            if fakes.count("/metrics") > before:
                break
            page.clock.run_for(EVERY_MS // 4)
        else:
            pytest.fail("the metrics are not asked for any more")
        page.wait_for_timeout(50)
        page.clock.run_for(50)


def test_requests_to_the_service_show_up(open_watch: Open, server: Server) -> None:
    page, _ = open_watch(clock=False)
    with server.client() as client:
        for _ in range(20):
            body = np.zeros((3, 28, 28), np.uint8).tobytes()
            type_ = {"Content-Type": "application/octet-stream"}
            client.post(ROUTE, content=body, headers=type_).raise_for_status()
        assert client.post(ROUTE, content=b"{}").status_code == httpx.codes.UNPROCESSABLE_ENTITY
    routes = section(page, "Latency").get_by_role("table").last
    row = routes.get_by_role("row").filter(has_text=ROUTE)
    expect(row.get_by_role("cell").first).to_have_text("21")
    lines = section(page, "Requests per second").get_by_role("table")
    now, mean, highest = cells(lines, "2xx, answered")
    assert all(float(text) > 0 for text in (mean, highest)), now
    assert float(cells(lines, "4xx")[2]) > 0
    assert cells(lines, "5xx")[2] == "0"
    assert page.locator("#page section path.ink").first.get_attribute("d")
    expect(section(page, "Images per batch")).to_contain_text(re.compile(r"\d+ forward passes"))
    expect(section(page, "Anomalies against alpha")).to_contain_text("60 images, ")
    expect(page.locator(".summary")).to_contain_text("Requests are answered.")


def test_what_the_page_itself_asks_is_not_counted(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics())
    fakes.metrics = metrics().replace("# TYPE vae_requests counter", "") + "".join(
        f'vae_requests_total{{method="GET",route="{route}",status="{status}"}} 70\n'
        for route, status in (("/metrics", 200), ("/readyz", 200), ("none", 200), ("none", 404))
    )
    poll(page, fakes)
    lines = section(page, "Requests per second").get_by_role("table")
    assert cells(lines, "2xx")[2] == "0"
    assert float(cells(lines, "4xx")[2]) > 0


def number_of(text: str) -> float:
    """Seconds, of `≈ 12.3 ms`."""
    found = re.search(r"([\d.]+) (ms|s)$", text)
    assert found is not None, text
    return float(found[1]) * {"ms": 1e-3, "s": 1}[found[2]]


def test_quantiles_are_near_the_truth(open_watch: Open) -> None:
    before = np.full(5000, 20.0)
    durations = np.random.default_rng(7).lognormal(np.log(0.02), 0.7, 4000)
    page, fakes = open_watch(metrics=metrics(statuses={"200": 5000}, durations=before))
    fakes.metrics = metrics(statuses={"200": 9000}, durations=np.concatenate([before, durations]))
    poll(page, fakes)
    latency = section(page, "Latency")
    count, *shown = cells(latency.get_by_role("table").last, ROUTE)
    assert count == "4,000", "what came before the view was opened is not in its window"
    edges = np.array([0, *SECONDS])
    for share, text in zip((0.5, 0.95, 0.99), shown, strict=True):
        truth = float(np.quantile(durations, share))
        bucket = np.searchsorted(edges, truth)
        assert text.startswith("≈ ")
        assert abs(number_of(text) - truth) <= 0.5 * (edges[bucket] - edges[bucket - 1]), share
    chart = latency.get_by_role("table").first
    for name, text in zip(("p50", "p95", "p99"), shown, strict=True):
        assert number_of(cells(chart, name)[0]) == number_of(text)
    expect(latency).to_contain_text("interpolated within one")


def test_quantiles_at_the_limits_are_said_to_be_limits(open_watch: Open) -> None:
    page, _ = open_watch(metrics=metrics(statuses={"200": 100}, durations=[0.0001] * 97 + [99] * 3))
    table = section(page, "Latency").get_by_role("table").last
    assert cells(table, ROUTE) == ["100", "≤ 1 ms", "≤ 1 ms", "> 30 s"]


@pytest.mark.parametrize(
    ("hits", "n", "state"),
    [(17, 1000, "within"), (40, 1000, "above"), (1, 2000, "below"), (1, 10, "within")],
)
def test_the_share_of_anomalies_is_compared_with_clean_images(
    open_watch: Open, hits: int, n: int, state: str
) -> None:
    page, fakes = open_watch(metrics=metrics(scored=50, anomalies=1))
    fakes.metrics = metrics(scored=50 + n, anomalies=1 + hits)
    poll(page, fakes)
    share = section(page, "Anomalies against alpha").locator(".share").last
    expect(share).to_have_attribute("data-state", state)
    expect(share).to_contain_text(f"{n:,} images, {hits} anomal")
    low, high = betabinom(n, *RANKS).ppf([1e-4, 1 - 1e-4]) / n
    shown = re.search(r"clean images: ([\d.]+) % to ([\d.]+) %", share.inner_text())
    assert shown is not None
    assert float(shown[1]) == pytest.approx(100 * low, rel=0.06)
    assert float(shown[2]) == pytest.approx(100 * high, rel=0.06)
    assert ("▲" in share.inner_text()) == (state == "above"), "not by colour alone"
    everything = section(page, "Anomalies against alpha").locator(".share").first
    expect(everything).to_contain_text(f"{n + 50:,} images, {hits + 1} anomalies")
    expect(section(page, "Anomalies against alpha")).to_contain_text("with its own alpha")


def test_no_share_without_images(open_watch: Open) -> None:
    page, _ = open_watch(metrics=metrics())
    expect(section(page, "Anomalies against alpha")).to_contain_text("No image with a p-value.")


def bars(page: Page) -> dict[str, tuple[str, str]]:
    """Images and ratio of each bin of the p-values."""
    rows = section(page, "p-values").get_by_role("row").all()[1:]
    return {
        row.get_by_role("rowheader").inner_text(): (
            row.get_by_role("cell").first.inner_text(),
            row.get_by_role("cell").last.inner_text().strip(),
        )
        for row in rows
    }


def test_even_p_values_are_flat(open_watch: Open) -> None:
    p = (np.arange(10_000) + 0.5) / 10_000
    page, _ = open_watch(metrics=metrics(p_values=p))
    found = bars(page)
    assert len(found) == 14
    assert found["≤ 0.001"] == ("10", "1 ×")
    assert found["0.5–0.6"] == ("1,000", "1 ×")
    expect(section(page, "p-values")).to_contain_text("are within what clean images give")
    assert "▲" not in section(page, "p-values").inner_text()
    lines = section(page, "p-values").locator(".track .line")
    places = {round(line.bounding_box()["x"]) for line in lines.all()}  # type: ignore[index]
    assert len(places) == 1, "one line through all bars"


def test_too_many_small_p_values_are_marked_and_said(open_watch: Open) -> None:
    even = (np.arange(1000) + 0.5) / 1000
    page, fakes = open_watch("?p=window", metrics=metrics(p_values=even))
    fakes.metrics = metrics(p_values=[*even, *even, *[0.0002] * 60, *[0.55] * 60])
    poll(page, fakes)
    found = bars(page)
    assert found["≤ 0.001"] == ("61", "▲ 54 ×")
    assert found["0.5–0.6"] == ("160", "1.4 ×"), "large ones are no reason for a mark"
    sentence = section(page, "p-values").locator("[data-state]")
    expect(sentence).to_have_attribute("data-state", "above")
    expect(sentence).to_contain_text("p ≤ 0.01: 70 of 1,120 images, 6.3 %; expected: 1.0 %")
    expect(page.locator(".summary")).to_contain_text(
        "▲ There are too many small p-values: 6.3 % flagged, 1.0 % expected with p ≤ 0.01."
    )
    section(page, "p-values").get_by_role("button", name="since the service started").click()
    expect(sentence).to_contain_text("80 of 2,120 images")


def test_bins_are_compared_with_what_a_small_calibration_can_give(
    open_watch: Open, server: Server
) -> None:
    """With n = 99, p-values are hundredths: none is ≤ 0.005, and 1 % are in the next bin."""
    with server.client() as client:
        model = client.get("/model").json()
    model["calibration"]["n"] = 99
    page, fakes = open_watch(metrics=metrics(p_values=[k / 100 for k in range(1, 101)] * 5))
    fakes.answer("/model", lambda route: route.fulfill(json=model))
    page.reload()
    expect(section(page, "p-values")).to_be_visible()
    found = bars(page)
    assert found["≤ 0.001"] == ("0", "–")
    assert found["0.005–0.01"] == ("5", "1 ×")
    assert found["0.1–0.2"] == ("50", "1 ×")


def test_a_service_without_the_histogram_has_no_such_part(open_watch: Open) -> None:
    page, _ = open_watch(metrics=metrics(scored=5))
    expect(section(page, "p-values")).to_have_count(0)
    expect(section(page, "Images in the queue")).to_be_visible()


def test_the_last_verdicts_are_a_strip(open_watch: Open) -> None:
    page, fakes = open_watch(
        metrics=metrics(),
        settings=settings(recent_images=100),
        recent=[recent(1, 0.4), recent(2, 0.0001, 200), recent(3, 0.03)],
    )
    strip = page.get_by_role("list", name="Last verdicts, newest first")
    expect(strip.get_by_role("listitem")).to_have_count(3)
    texts = [text.split("\n") for text in strip.get_by_role("listitem").all_inner_texts()]
    assert texts == [
        ["not unusual", "1 in 33"],
        ["▲ anomaly", "1 in 10,000"],
        ["not unusual", "40 in 100"],
    ]
    label = strip.get_by_role("img").nth(1).get_attribute("aria-label")
    assert label is not None
    assert "fused" in label
    assert "p-value 0.0001" in label
    pixel = "c => c.getContext('2d').getImageData(5, 5, 1, 1).data[0]"
    assert strip.locator("canvas").nth(1).evaluate(pixel) == 200
    fakes.recent.append(recent(4, 0.5))
    poll(page, fakes)
    expect(strip.get_by_role("listitem")).to_have_count(4)
    assert "/recent?after=3" in fakes.asked, "only what is new is asked for"


def test_the_strip_goes_on_when_the_service_starts_anew(open_watch: Open) -> None:
    page, fakes = open_watch(
        metrics=metrics(), settings=settings(recent_images=100), recent=[recent(9, 0.4)]
    )
    strip = page.get_by_role("list", name="Last verdicts, newest first")
    expect(strip.get_by_role("listitem")).to_have_count(1)
    fakes.process, fakes.recent = "second", [recent(id_, 0.2) for id_ in range(1, 13)]
    poll(page, fakes, 2)
    expect(strip.get_by_role("listitem")).to_have_count(13)
    asked = len(fakes.asked)
    fakes.recent.append(recent(13, 0.2))
    poll(page, fakes, 2)
    expect(strip.get_by_role("listitem")).to_have_count(14)
    assert "/recent?after=12" in fakes.asked[asked:]
    assert not {"/recent?after=0", "/recent?after=9"} & set(fakes.asked[asked:])


def test_with_several_workers_each_tells_of_its_own(open_watch: Open) -> None:
    page, fakes = open_watch(
        metrics=metrics(), settings=settings(recent_images=100, workers=2), recent=[recent(9, 0.4)]
    )
    expect(section(page, "Last verdicts")).to_contain_text("Each worker keeps its own")
    strip = page.get_by_role("list", name="Last verdicts, newest first")
    expect(strip.get_by_role("listitem")).to_have_count(1)
    fakes.process, fakes.recent = "second", [recent(1, 0.2), recent(2, 0.3)]
    poll(page, fakes, 2)
    expect(strip.get_by_role("listitem")).to_have_count(3)
    fakes.process, fakes.recent = "first", [recent(9, 0.4), recent(10, 0.5)]
    poll(page, fakes, 2)
    expect(strip.get_by_role("listitem")).to_have_count(4)


def test_where_images_are_not_kept_a_sentence_says_so(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics())
    expect(section(page, "Last verdicts")).to_contain_text("VAE_RECENT_IMAGES=100 keeps")
    poll(page, fakes)
    assert fakes.count("/recent") == 0


def test_refusals_have_their_reasons(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics(refusals={"queue_images": 2, "rate_limit": 0}))
    fakes.metrics = metrics(refusals={"queue_images": 9, "rate_limit": 0})
    poll(page, fakes)
    table = section(page, "Refused and lost").get_by_role("table")
    assert cells(table, "queue full: images") == ["7", "9"]
    expect(table.get_by_role("row")).to_have_count(2)
    expect(page.locator(".summary")).to_contain_text("▲ Some requests were refused or lost.")


def test_without_refusals_one_line_says_so(open_watch: Open) -> None:
    page, _ = open_watch(metrics=metrics(refusals={"rate_limit": 0}))
    expect(section(page, "Refused and lost")).to_contain_text("Nothing was refused.")
    expect(section(page, "Refused and lost").get_by_role("table")).to_have_count(0)


def test_what_is_notable_is_said_aloud_but_not_all_the_time(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics())
    status = page.get_by_role("status")
    page.clock.run_for(100)
    expect(page.locator(".summary")).to_have_text("Reading …")
    expect(status).to_have_text("")
    poll(page, fakes)
    expect(status).to_have_text("No requests.")
    fakes.metrics = metrics(statuses={"500": 3})
    poll(page, fakes)
    expect(page.locator(".summary")).to_contain_text("failed")
    expect(status).to_have_text("No requests.")
    page.clock.run_for(10_000)
    expect(status).to_contain_text("failed")


def test_a_nearly_full_queue_is_said(open_watch: Open) -> None:
    page, _ = open_watch(metrics=metrics(queue_images=16_000))
    expect(page.locator(".summary")).to_contain_text("▲ The queue is nearly full.")
    expect(section(page, "Images in the queue")).to_contain_text(
        "Now 16,000 of at most 16,384 images"
    )


def test_a_pause_and_a_hidden_tab_ask_for_nothing(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics())
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    asked = fakes.count("/metrics")
    page.clock.run_for(10 * EVERY_MS)
    assert fakes.count("/metrics") == asked
    pause.click()
    poll(page, fakes)
    hide = (
        "value => { Object.defineProperty(document, 'hidden', { value, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    page.evaluate(hide, True)
    page.clock.run_for(2 * EVERY_MS)
    asked = fakes.count("/metrics")
    page.clock.run_for(10 * EVERY_MS)
    assert fakes.count("/metrics") == asked
    page.evaluate(hide, False)
    page.wait_for_timeout(50)
    assert fakes.count("/metrics") == asked + 1


def test_a_link_has_the_window_and_the_pause(open_watch: Open, server: Server) -> None:
    page, _ = open_watch(metrics=metrics(p_values=[0.5]))
    page.get_by_role("button", name="10 min").click()
    section(page, "p-values").get_by_role("button").last.click()
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(500)
    assert page.evaluate("location.hash") == "#watch?minutes=10&paused=true&p=window"
    page.reload()
    expect(page.get_by_role("button", name="10 min")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    expect(section(page, "Images in the queue")).to_be_visible()
    page.goto(f"{server.url}/#watch?minutes=2")
    expect(page.get_by_role("button", name="2 min")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "false")


def test_a_service_that_started_anew_is_counted_anew(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics(statuses={"200": 500}, scored=500))
    fakes.metrics = metrics(statuses={"200": 3}, scored=3)
    poll(page, fakes)
    fakes.metrics = metrics(statuses={"200": 10}, scored=10)
    poll(page, fakes)
    window = section(page, "Anomalies against alpha").locator(".share").last
    expect(window).to_contain_text("7 images, 0 anomalies")


def test_a_service_that_is_gone_is_said_so_until_it_is_back(
    open_watch: Open, watched: Watched
) -> None:
    watched.allowed = ["ERR_FAILED"]
    page, fakes = open_watch(metrics=metrics())
    fakes.answer("/metrics", lambda route: route.abort())
    poll(page, fakes)
    expect(page.get_by_role("alert")).to_contain_text("The service did not answer")
    expect(page.locator(".summary")).to_contain_text("▲ The service does not answer.")
    fakes.answer("/metrics", lambda route: route.fulfill(body=metrics()))
    poll(page, fakes)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_key_without_the_scope_is_told_so_once(
    browser: Browser, server: Server, watched: Watched
) -> None:
    watched.allowed = ["403"]
    page, fakes = page_with_fakes(browser, watched)
    words = "the key alice lacks the scope metrics"
    fakes.refuse("/metrics", 403, words)
    fakes.refuse("/settings", 403, words)
    page.clock.install()
    page.goto(f"{server.url}/#watch")
    expect(page.get_by_role("alert")).to_contain_text(words)
    page.clock.run_for(10 * EVERY_MS)
    assert fakes.count("/metrics") == 1


@pytest.mark.parametrize("status", [400, 429, 503])
def test_errors_that_pass_are_no_end(open_watch: Open, watched: Watched, status: int) -> None:
    watched.allowed = [str(status)]
    page, fakes = open_watch(
        metrics=metrics(), settings=settings(recent_images=9), recent=[recent(1, 0.5)]
    )
    asked = fakes.count("/recent")
    fakes.refuse("/metrics", status, "not now")
    fakes.refuse("/recent", status, "not now either")
    poll(page, fakes, 2)
    expect(page.get_by_role("alert")).to_have_text(["Not so. not now", "Not so. not now either"])
    assert fakes.count("/recent") >= asked + 2
    fakes.answer("/metrics", lambda route: route.fulfill(body=metrics()))
    fakes.answer("/recent", fakes.recent_images)
    poll(page, fakes, 2)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_settings_are_asked_for_until_they_come(open_watch: Open, watched: Watched) -> None:
    watched.allowed = ["503"]
    page, fakes = open_watch(metrics=metrics(scored=100, anomalies=1))
    fakes.refuse("/settings", 503, "not now")
    page.reload()
    share = section(page, "Anomalies against alpha").locator(".share").first
    expect(share).to_have_attribute("data-state", "unknown")
    fakes.answer("/settings", lambda route: route.fulfill(json={"settings": settings()}))
    poll(page, fakes, 2)
    expect(share).to_have_attribute("data-state", "within")


def test_a_key_for_metrics_alone_is_enough(
    browser: Browser, server: Server, watched: Watched
) -> None:
    """Without the size of the calibration nothing is compared with clean images."""
    watched.allowed = ["403"]
    page, fakes = page_with_fakes(browser, watched)
    fakes.metrics = metrics(scored=100, anomalies=50, p_values=[0.0001] * 50)
    fakes.refuse("/model", 403, "the key alice lacks the scope infer")
    page.goto(f"{server.url}/#watch")
    share = section(page, "Anomalies against alpha").locator(".share").first
    expect(share).to_have_attribute("data-state", "unknown")
    expect(share).to_contain_text("100 images, 50 anomalies: 50 %")
    assert "(clean images" not in share.inner_text()
    assert bars(page)["≤ 0.001"] == ("50", "1,000 ×")
    expect(section(page, "p-values")).to_contain_text("p ≤ 0.01: 50 of 50 images")
    assert "▲" not in page.locator("main").inner_text()
    page.context.close()


def test_only_answers_without_error_are_called_answers(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics(statuses={"200": 5}))
    fakes.metrics = metrics(statuses={"200": 5, "500": 2})
    poll(page, fakes)
    expect(page.locator(".summary")).to_have_text(
        re.compile("▲ No request succeeds.*error in the service")
    )


def test_both_alarms_are_one_sentence(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics(p_values=[]))
    fakes.metrics = metrics(scored=1000, anomalies=63, p_values=[0.0002] * 63 + [0.5] * 937)
    poll(page, fakes)
    expect(page.locator(".summary")).to_contain_text(
        "▲ There are more anomalies than alpha allows, and too many small p-values: "
        "6.3 % flagged, 1.0 % expected."
    )
    expect(page.locator(".summary")).to_have_attribute("data-codes", "idle both")


CLEAN_RANGES = """async cases => {
    const main = document.querySelector('script[type=module]').src;
    const { cleanRange } = await import(main.replace('main.js', 'watch/statistics.js'));
    return cases.map(([total, ranks, n]) => cleanRange(total, ranks, n));
}"""


def test_the_range_of_clean_images_is_that_of_a_beta_binomial(open_watch: Open) -> None:
    page, _ = open_watch(metrics=metrics())
    cases = [
        (total, ranks, n)
        for n, ranks in ((1, 1), (99, 1), (99, 10), (10_000, 10), (10_000, 100), (10_000, 9000))
        for total in (1, 10, 1000, 20 * n)
    ]
    found = page.evaluate(CLEAN_RANGES, cases)
    for (total, ranks, n), own in zip(cases, found, strict=True):
        low, high = betabinom(total, ranks, n + 1 - ranks).ppf([1e-4, 1 - 1e-4])
        assert own["low"] * total == pytest.approx(low, abs=1e-6), (total, ranks, n)
        assert own["high"] * total == pytest.approx(high, abs=1e-6), (total, ranks, n)
    many, none, all_ = page.evaluate(
        CLEAN_RANGES, [[10**8, 100, 10_000], [50, 0, 99], [50, 100, 99]]
    )
    low, high = betabinom(10**8, *RANKS).ppf([1e-4, 1 - 1e-4]) / 10**8
    assert low * 0.95 < many["low"] <= low, "a little too wide where it is not computed in full"
    assert high <= many["high"] < high * 1.05
    assert none == {"low": 0, "high": 0}
    assert all_ == {"low": 1, "high": 1}


@pytest.mark.parametrize(("n", "total"), [(99, 10_000), (10_000, 100_000)])
def test_clean_images_are_rarely_called_unusual(open_watch: Open, n: int, total: int) -> None:
    """One calibration scores all images of a service, so its own chance is in all of them."""
    alpha, services = 0.01, 20_000
    ranks = round(alpha * (n + 1))
    random = np.random.default_rng(0)
    rates = random.beta(ranks, n + 1 - ranks, services)
    shares = random.binomial(total, rates) / total
    page, _ = open_watch(metrics=metrics())
    (own,) = page.evaluate(CLEAN_RANGES, [[total, ranks, n]])
    assert np.mean(shares > own["high"]) < 5e-4
    assert np.mean(shares < own["low"]) < 5e-4
    assert own["high"] < np.quantile(shares, 0.9999) * 1.1, "and not by being wide"


def test_bars_have_one_scale_and_a_point_where_they_are_cut(open_watch: Open) -> None:
    counts = {0.0005: 20, 0.003: 24, 0.007: 10, 0.5: 946}
    page, _ = open_watch(metrics=metrics(p_values=[p for p, k in counts.items() for _ in range(k)]))
    rows = section(page, "p-values").get_by_role("row").all()[1:4]
    widths = [row.locator(".bar").evaluate("b => b.getBoundingClientRect().width") for row in rows]
    tracks = [
        row.locator(".track").evaluate("t => t.getBoundingClientRect().width") for row in rows
    ]
    assert len(set(tracks)) == 1
    assert widths[0] == widths[1] > 2 * widths[2] > 0, "20 × and 6 × are cut alike; 2 × is not"
    assert [row.locator(".cut").count() for row in rows] == [1, 1, 0]


def test_shares_of_anomalies_have_one_scale_with_numbers(open_watch: Open) -> None:
    page, fakes = open_watch(metrics=metrics(scored=1000, anomalies=2))
    fakes.metrics = metrics(scored=2000, anomalies=42)
    poll(page, fakes)
    anomalies = section(page, "Anomalies against alpha")
    lines = [line.bounding_box() for line in anomalies.locator(".track .line").all()]
    assert len(lines) == 2
    assert lines[0] is not None
    assert lines[1] is not None
    assert lines[0]["x"] == lines[1]["x"]
    expect(anomalies.locator(".axis span")).to_have_text(["0", "2.5 %", "5.0 %"])


def test_nothing_is_cut_on_a_phone(open_watch: Open) -> None:
    page, _ = open_watch(
        width=390,
        metrics=metrics(statuses={"200": 4000}, durations=[0.0123] * 4000),
        settings=settings(recent_images=20),
        recent=[recent(id_, 0.0021 if id_ % 2 else 0.57) for id_ in range(1, 20)],
    )
    strip = page.get_by_role("list", name="Last verdicts, newest first")
    expect(strip.get_by_role("listitem")).to_have_count(19)
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    assert page.eval_on_selector_all(".strip, .strip span, .watch .scroll", cut) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_is_for_everybody(
    open_watch: Open, check_accessibility: Callable[[Page], None], dark: bool, width: int
) -> None:
    page, fakes = open_watch(
        width=width,
        dark=dark,
        metrics=metrics(statuses={"200": 5}, scored=50, p_values=[0.0005] * 9 + [0.5]),
        settings=settings(recent_images=9),
        recent=[recent(1, 0.0001)],
    )
    fakes.metrics = metrics(
        statuses={"200": 15, "500": 2},
        durations=[0.003] * 10,
        batches=[1, 8, 64],
        scored=150,
        anomalies=30,
        p_values=[0.0005] * 19 + [0.5] * 5,
    )
    poll(page, fakes)
    expect(page.get_by_role("list", name="Last verdicts, newest first")).to_be_visible()
    check_accessibility(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_charts_follow_the_scheme(open_watch: Open) -> None:
    page, _ = open_watch(metrics=metrics())
    stroke = "p => getComputedStyle(p).stroke"
    line = section(page, "Requests per second").locator("path.ink").first
    light = line.evaluate(stroke)
    page.emulate_media(color_scheme="dark")
    assert line.evaluate(stroke) != light


def test_it_is_used_by_keyboard_alone(open_watch: Open) -> None:
    page, _ = open_watch(
        metrics=metrics(p_values=[0.5]),
        settings=settings(recent_images=9),
        recent=[recent(1, 0.5)],
    )
    page.get_by_role("button", name="1 min", exact=True).focus()
    page.keyboard.press("Enter")
    pressed = page.get_by_role("button", name="1 min", exact=True)
    expect(pressed).to_have_attribute("aria-pressed", "true")
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    expect(page.get_by_role("list", name="Last verdicts, newest first")).to_be_focused()
    page.keyboard.press("Tab")
    expect(section(page, "p-values").get_by_role("button").first).to_be_focused()


def test_curl_does_the_same(open_watch: Open, server: Server) -> None:
    page, _ = open_watch(metrics=metrics())
    page.get_by_text("As curl and Python").click()
    expect(page.get_by_role("group", name="curl line")).to_have_text(f"curl '{server.url}/metrics'")
