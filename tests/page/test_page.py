"""The page of the service in a real browser."""

from __future__ import annotations

import re
import threading
from contextlib import closing, suppress
from typing import Any

import pytest
from looking import Page, Service, until

from microlock import LockLostError, MicrolockError, MultiLock, ReadLock, WriteLock
from microlock import Microlock as Lock
from microlock.server import EtcdServer


def lock(service: Service, key: str, node_id: str = "node-a", ttl: float = 600) -> Lock:
    made = Lock(service.client, key, node_id, ttl=ttl)
    made.lock()
    return made


def wait(foo: Any) -> threading.Thread:
    """Has it wait for its turn, from before this returns."""
    queued = threading.Event()
    foo.on("waiting", queued.set)

    def lock() -> None:
        with suppress(MicrolockError):  # the test may end before
            foo.lock(timeout=120)

    thread = threading.Thread(target=lock, daemon=True)
    thread.start()
    assert queued.wait(30)
    return thread


def test_locks_appear_move_to_the_next_and_vanish(page: Page, service: Service) -> None:
    page.open(service)
    until(lambda: page.text("#nothing") == "No locks.")
    one = lock(service, "foo")
    until(lambda: page.locks)
    assert page.locks["foo"]["kind"] == "queue"
    assert page.locks["foo"]["who"] == ["node-a"]
    assert page.locks["foo"]["token"] == [str(one.token)]
    two, three = (Lock(service.client, "foo", f"node-{name}", ttl=600) for name in "bc")
    waiting = [wait(two), wait(three)]
    until(lambda: page.locks["foo"]["queue"] == "node-b and 1 more")
    assert page.text("#summary") == "1 lock, 2 waiters"
    page.click("summary")
    until(lambda: page.locks["foo"]["waiters"] == ["node-b", "node-c"])
    one.unlock()
    until(lambda: page.locks["foo"]["who"] == ["node-b"])
    # What was opened stays so.
    assert page.locks["foo"]["waiters"] == ["node-c"]
    waiting[0].join(30)
    two.destroy()
    waiting[1].join(30)
    until(lambda: page.locks["foo"]["who"] == ["node-c"])
    three.destroy()
    until(lambda: not page.locks)


def test_the_time_left_is_counted_down_and_what_expires_goes(page: Page, service: Service) -> None:
    page.open(service)
    foo, bar = lock(service, "foo", ttl=8), lock(service, "bar", ttl=7200)
    until(lambda: page.locks.get("bar", {}).get("left") == ["2 h"])
    seen = set()

    def gone() -> bool:
        shown = page.locks
        seen.update(shown.get("foo", {}).get("left", []))
        return "foo" not in shown

    until(gone)
    assert len({f"{seconds} s" for seconds in range(8)} & seen) >= 3
    assert not foo.held
    assert list(page.locks) == ["bar"]
    bar.destroy()


def test_readers_share_a_lock_and_several_keys_have_one_token(page: Page, service: Service) -> None:
    locks = [
        ReadLock(service.client, "book", "reader-1", ttl=600),
        ReadLock(service.client, "book", "reader-2", ttl=600),
        MultiLock(service.client, ["x", "y"], "node", ttl=600),
    ]
    for each in locks:
        each.lock()
    writer = WriteLock(service.client, "book", "writer", ttl=600)
    waiting = wait(writer)
    page.open(service)
    until(lambda: len(page.locks) == 3)
    book = page.locks["book"]
    assert book["kind"] == "readers/writers"
    assert book["who"] == ["reader-1 reader", "reader-2 reader"]
    assert book["queue"] == "writer"
    assert page.locks["x"]["token"] == page.locks["y"]["token"]
    locks[0].unlock()
    until(lambda: page.locks["book"]["who"] == ["reader-2 reader"])
    locks[1].unlock()
    waiting.join(30)
    until(lambda: page.locks["book"]["who"] == ["writer writer"])


def test_a_hold_is_broken_after_a_question(page: Page, service: Service) -> None:
    foo = lock(service, "foo")
    page.open(service)
    until(lambda: page.locks)
    page.break_of("foo")
    assert "node-a" in page.text("#question-text")
    page.click("#question-no")
    assert foo.held
    page.break_of("foo")
    page.click("#question-yes")
    until(lambda: not page.locks)
    until(lambda: "Broken" in page.run("return document.querySelector('#said').textContent"))
    with pytest.raises(LockLostError):
        foo.renew()


def test_a_successor_is_not_broken(page: Page, service: Service) -> None:
    foo, bar = lock(service, "foo"), Lock(service.client, "foo", "node-b", ttl=600)
    waiting = wait(bar)
    page.open(service)
    until(lambda: page.locks)
    page.break_of("foo")
    foo.unlock()
    waiting.join(30)
    until(lambda: page.locks["foo"]["who"] == ["node-b"])
    page.click("#question-yes")
    until(lambda: "ended already" in page.run("return document.querySelector('#said').textContent"))
    assert bar.renew() > 0


def test_a_waiter_is_removed_from_the_queue(page: Page, service: Service) -> None:
    foo, bar = lock(service, "foo"), Lock(service.client, "foo", "node-b", ttl=600)
    wait(bar)
    page.open(service)
    until(lambda: page.locks)
    page.click("summary")
    token = until(lambda: page.run("return document.querySelector('li button')?.value"))
    page.break_of("foo", "li button")
    page.click("#question-yes")
    # It queues anew, as it does whenever its entry is gone.
    until(
        lambda: page.run("return document.querySelector('li button')?.value") not in (None, token)
    )
    assert foo.renew() > 0
    bar.cancel()


def test_the_token_of_the_service_is_asked_for_and_kept_in_this_tab(
    page: Page, guarded: Service
) -> None:
    one, two = lock(guarded, "one"), lock(guarded, "two")
    page.open(guarded)
    until(lambda: len(page.locks) == 2)
    page.break_of("one")
    assert not page.find("#question-token").is_displayed()
    page.click("#question-yes")
    until(lambda: page.find("#question-token").is_displayed())
    field = page.find("#question-token input")
    field.send_keys("wrong\n")
    until(lambda: "not the token" in page.text("#question-error"))
    assert one.renew() > 0
    field.clear()
    field.send_keys("sésame\n")
    until(lambda: list(page.locks) == ["two"])
    assert page.run("return Object.values(sessionStorage).concat(Object.keys(localStorage))") == [
        "sésame"
    ]
    assert not page.driver.get_cookies()
    page.break_of("two")
    page.click("#question-yes")
    until(lambda: not page.locks)
    with pytest.raises(LockLostError):
        two.renew()


def test_a_filter_finds_locks_and_nodes_and_outlives_a_reload(page: Page, service: Service) -> None:
    held = [lock(service, f"jobs/{name}", f"node-{name}") for name in ("a", "b", "ü/#%")]
    page.open(service)
    until(lambda: len(page.locks) == 3)
    page.find("body").send_keys("/")
    filter_ = page.find("#filter")
    assert page.driver.switch_to.active_element == filter_
    filter_.send_keys("NODE-Ü/#%")
    until(lambda: list(page.locks) == ["jobs/ü/#%"])
    assert page.text("#summary") == "1 of 3 locks, 0 waiters"
    page.driver.refresh()
    until(lambda: list(page.locks) == ["jobs/ü/#%"])
    page.find("#filter").send_keys("nothing")
    until(lambda: page.text("#nothing") == "No lock or node matches.")
    for each in held:
        each.destroy()


def test_it_says_that_the_service_is_away_and_comes_back_by_itself(
    page: Page, service: Service
) -> None:
    foo, bar = lock(service, "foo"), lock(service, "bar")
    page.open(service)
    until(lambda: len(page.locks) == 2)
    service.stop()
    until(lambda: page.state == "lost")
    assert page.text("#state") == "Connection lost. Trying again …"
    assert len(page.locks) == 2  # as it was, and paler
    page.break_of("foo")
    page.click("#question-yes")
    until(lambda: page.text("#question-error") == "The service does not answer.")
    page.click("#question-no")
    foo.destroy()
    new = lock(service, "new")
    service.start()
    until(lambda: page.state == "live" and list(page.locks) == ["bar", "new"])
    assert bar.renew() > 0
    assert new.renew() > 0


def test_it_says_that_etcd_is_away_and_what_has_changed_when_it_is_back(
    page: Page, on_etcd: Service, etcd: EtcdServer
) -> None:
    foo = lock(on_etcd, "foo")
    page.open(on_etcd)
    until(lambda: page.locks.get("foo", {}).get("left") == ["10 min"])
    etcd.stop()
    until(lambda: page.state == "blind")
    assert page.text("#state").startswith("The service can't reach etcd: ")
    assert list(page.locks) == ["foo"]
    page.break_of("foo")
    page.click("#question-yes")
    assert "Connection refused" in until(lambda: page.text("#question-error"))
    page.click("#question-no")
    etcd.start()
    until(lambda: page.state == "live")
    bar = lock(on_etcd, "bar")
    foo.unlock()
    until(lambda: list(page.locks) == ["bar"])
    bar.destroy()


def test_opened_while_etcd_is_away_it_counts_no_locks(page: Page) -> None:
    with closing(Service("localhost:1")) as away:
        page.open(away, "blind")
        assert page.text("#summary") == "Locks: unknown"


HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</td><script>document.title='owned'</script>",
    "javascript:alert(1)",
    '"]{}\\" onfocus="document.title=\'owned\'" autofocus x="',
    "__proto__",
    "constructor",
]


def test_names_are_text_and_never_markup(page: Page, service: Service) -> None:
    keep = [lock(service, name, name) for name in HOSTILE]
    waiters = [Lock(service.client, name, f"{name}<b>", ttl=600) for name in HOSTILE]
    for each in waiters:
        wait(each)
    page.open(service)
    until(lambda: len(page.locks) == len(HOSTILE))
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    until(lambda: all(each["waiters"] for each in page.locks.values()))
    for name, row in page.locks.items():
        assert name in HOSTILE
        assert row["who"] == [name]
        assert row["waiters"] == [f"{name}<b>"]
    assert page.driver.title == "microlock"
    assert page.run("return document.querySelectorAll('table :is(img, script, b)').length") == 0
    # Nor in the question.
    page.click("[data-key] .act button")
    until(lambda: page.run("return document.querySelector('dialog').open"))
    assert page.run("return document.querySelectorAll('dialog :is(img, script, b)').length") == 0
    for each in (*waiters, *keep):
        each.cancel()


def test_a_script_in_the_page_itself_would_not_run(page: Page, service: Service) -> None:
    page.open(service)
    page.run(
        """
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
        const image = '<img src="data:," onerror="document.title = 1">';
        document.body.insertAdjacentHTML("beforeend", image);
        """
    )
    complaints: list[str] = []
    until(lambda: complaints.extend(page.complaints()) or len(complaints) == 3)
    assert all("Content Security Policy" in each for each in complaints)
    assert page.driver.title == "microlock"


def test_what_can_not_be_seen_in_a_name_is_shown(page: Page, service: Service) -> None:
    """Two names never look the same, and none turns the text around it."""
    keep = [lock(service, name) for name in ("pay", "pay\u200b", "\u202eyap", "pay\n", "שלום")]
    page.open(service)
    until(lambda: len(page.locks) == 5)
    assert set(page.locks) == {"pay", "pay\\u200b", "\\u202eyap", "pay\\u000a", "שלום"}
    assert page.run("return document.querySelector('[data-key] th bdi') !== null")
    assert keep


def test_a_very_long_name_takes_three_lines(page: Page, service: Service) -> None:
    keep = lock(service, "k" * 4000, "n" * 4000), lock(service, "short")
    page.open(service)
    until(lambda: len(page.locks) == 2)
    for width in (1100, 390):
        page.look(width)
        wide, high = page.run(
            "return [document.documentElement.scrollWidth,"
            " document.querySelector('[data-key]').offsetHeight]"
        )
        assert wide <= width
        assert high < 250
    page.run("document.querySelector('[data-key] .act button').click()")
    until(lambda: page.find("#question-no").is_displayed())
    page.click("#question-no")
    assert keep


def many(service: Service, number: int) -> list[Lock]:
    return [lock(service, f"job/{each:04}", f"node-{each % 7}") for each in range(number)]


def test_of_3000_locks_those_about_the_screen_are_made_and_those_that_change_are_touched(
    page: Page, service: Service
) -> None:
    held = many(service, 3000)
    page.open(service)
    until(lambda: page.text("#summary") == "3,000 locks, 0 waiters")
    until(lambda: page.locks["job/0000"]["left"] != ["…"])
    assert 50 < len(page.locks) < 150
    page.run(
        """
        window.touched = new Set();
        const near = (node) => node.nodeType === 1 ? node : node.parentElement;
        new MutationObserver((records) => records.forEach((record) => {
            const moved = [...record.addedNodes, ...record.removedNodes];
            const nodes = record.target.tagName === "TABLE" ? moved : [record.target];
            nodes.filter((node) => !near(node)?.closest(".left"))
                .forEach((node) => touched.add(near(node)?.closest("tbody")?.dataset.key));
        })).observe(document.querySelector("table"), {subtree: true, childList: true});
        """
    )
    held[7].unlock()
    until(lambda: "job/0007" not in page.locks)
    newcomer = lock(service, "job/0007", "newcomer")
    until(lambda: page.locks.get("job/0007", {}).get("who") == ["newcomer"])
    held[2500].unlock()  # far below the screen
    until(lambda: page.text("#summary") == "2,999 locks, 0 waiters")
    touched = page.run("return [...touched]")
    assert "job/0007" in touched
    assert len(touched) <= 2  # and the last one, that came up and went down again
    assert newcomer.held


def test_the_last_of_3000_locks_is_found_and_scrolled_to(page: Page, service: Service) -> None:
    held = many(service, 3000)
    page.open(service)
    until(lambda: page.text("#summary") == "3,000 locks, 0 waiters")
    page.find("#filter").send_keys("job/2999")
    until(lambda: list(page.locks) == ["job/2999"])
    page.run("location.hash = ''")
    until(lambda: len(page.locks) > 1)
    seen = set()
    for part in range(21):
        page.run("scrollTo(0, document.body.scrollHeight * arguments[0])", part / 20)
        until(lambda: page.run(ON_SCREEN))
        seen.add(page.run(ON_SCREEN))
        assert len(page.locks) < 150
    assert len(seen) == 21
    assert list(page.locks)[-1] == "job/2999"
    until(lambda: re.fullmatch(r"\d+ min", page.locks["job/2999"]["left"][0]))
    page.run("scrollTo(0, 0)")
    until(lambda: next(iter(page.locks)) == "job/0000")
    assert held


# The lock in the middle of the screen.
ON_SCREEN = """
return document.elementFromPoint(300, 500)?.closest("[data-key]")?.dataset.key
"""


def test_all_can_be_done_by_keyboard(page: Page, service: Service) -> None:
    foo = lock(service, "foo")
    wait(Lock(service.client, "foo", "node-b", ttl=600))
    page.open(service)
    until(lambda: page.locks)
    active = page.driver.switch_to

    def press(keys: str) -> None:
        active.active_element.send_keys(keys)

    tab, enter, escape = "\ue004", "\ue007", "\ue00c"
    page.find("#filter").click()
    press(tab)
    assert active.active_element.accessible_name.startswith("Break")
    press(enter)
    until(lambda: active.active_element.text == "Cancel")
    press(escape)
    assert active.active_element.accessible_name.startswith("Break")
    press(tab)
    press(enter)  # opens the queue
    until(lambda: page.locks["foo"]["waiters"])
    press(tab)
    if active.active_element.tag_name == "ol":  # a list that can be scrolled
        press(tab)
    assert active.active_element.accessible_name.startswith("Remove")
    assert foo.held


@pytest.mark.parametrize("width", [1100, 390])
def test_a_screen_reader_finds_a_table_with_heads(page: Page, service: Service, width: int) -> None:
    keep = lock(service, "foo")
    page.look(width)
    page.open(service)
    until(lambda: page.locks)
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [
        (each["role"]["value"], each.get("name", {}).get("value", ""))
        for each in tree
        if not each.get("ignored")
    ]
    assert ("table", "Locks, who holds them and who waits") in found
    assert ("rowheader", "foo") in found
    assert ("cell", "node-a") in found
    assert ("status", "") in found
    heads = [name for role, name in found if role == "columnheader"]
    assert heads == ["Lock", "Kind", "Held by", "Token", "Time left", "Break", "Waiting, in order"]
    # Time that passes is not read out: only the state, the answers, and errors.
    live = page.run(
        "return [...document.querySelectorAll('[role=status], [role=alert], [aria-live]')]"
        ".map(each => each.id)"
    )
    assert live == ["state", "said", "question-error"]
    assert keep.held


CONTRAST = """
const channel = (value) => {
  value /= 255;
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
};
const light = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).map(Number);
  return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
};
const back = (element) => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
const worst = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.getClientRects().length) continue;
  const [one, two] = [light(getComputedStyle(element).color), light(back(element))].sort();
  const [low, high] = one < two ? [one, two] : [two, one];
  const contrast = (high + 0.05) / (low + 0.05);
  if (contrast < 4.5) worst.push(`${element.tagName}.${element.className} ${contrast}`);
}
return worst;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_it_can_be_read_in_light_and_dark_on_a_desk_and_a_phone(
    page: Page, service: Service, dark: bool, width: int
) -> None:
    keep = [lock(service, "foo", ttl=600), ReadLock(service.client, "book", "reader", ttl=600)]
    keep[1].lock()
    page.look(width, dark=dark)
    page.open(service)
    until(lambda: len(page.locks) == 2)
    page.break_of("foo")
    page.run("document.getAnimations().forEach(each => each.finish())")
    assert page.run(CONTRAST) == []
    assert page.run("return document.documentElement.scrollWidth") <= width
    back = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not dark


def test_a_phone_has_a_card_for_each_lock_whose_buttons_a_thumb_hits(
    page: Page, service: Service
) -> None:
    keep = [lock(service, f"jobs/{each}", "node-" + "x" * 60) for each in range(3)]
    page.look(390, 844)
    page.open(service)
    until(lambda: len(page.locks) == 3)
    width, height = page.run(
        "const box = document.querySelector('.act button').getBoundingClientRect();"
        "return [box.width, box.height]"
    )
    assert width >= 24  # WCAG 2.2, 2.5.8
    assert height >= 24
    assert page.run("return document.documentElement.scrollWidth") == 390
    assert keep
