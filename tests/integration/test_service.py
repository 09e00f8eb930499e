"""The lock service, by its words: on etcd and in memory."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from services import DEADLINE, Service, until

from microlock import Microlock, ReadLock, WriteLock, connect
from microlock.service.holds import Holds
from microlock.service.settings import Settings
from microlock.testing import MemoryStore

LONG = 60_000  # ms; no test takes so long


@pytest.fixture(scope="module", params=["etcd", "memory"])
def store(request: pytest.FixtureRequest) -> str:
    """The address of a store."""
    if request.param == "etcd":
        endpoint: str = request.getfixturevalue("etcd_server").endpoint
        return endpoint
    return f"memory://{uuid4()}"


@pytest.fixture(scope="module")
def service(store: str) -> Iterator[Service]:
    with closing(Service(store)) as service:
        yield service


@pytest.fixture(scope="module")
def other(store: str) -> Iterator[Service]:
    """A second service on the same store."""
    with closing(Service(store)) as service:
        yield service


@pytest.fixture
def own() -> Iterator[Callable[..., Service]]:
    """Starts a service for one test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(closing(Service(*args, **kwargs)))


# As the seed has it.


def test_a_lock_is_taken_by_one_and_refused_to_others_until_it_is_unlocked(
    service: Service, key: str
) -> None:
    tokens = service.lock("a", key, exp=LONG)
    assert [each["key"] for each in tokens] == [key]
    refused = service.post("/lock", uid="b", keys=key)
    assert refused.status_code == 409
    assert refused.json()["error"] == f"{key!r} is locked by a"
    assert refused.json()["holder"]["token"] == tokens[0]["version"]
    assert service.unlock("a", tokens) == [key]
    (token,) = service.lock("b", key, exp=LONG)
    assert token["version"] > tokens[0]["version"]


def test_several_keys_are_taken_all_or_none(service: Service, prefix: str) -> None:
    first, second, third = (f"{prefix}{each}" for each in "xyz")
    tokens = service.lock("a", [second, first, second], exp=LONG)
    assert [each["key"] for each in tokens] == [second, first]
    assert len({each["version"] for each in tokens}) == 1
    assert service.post("/lock", uid="b", keys=[third, first]).status_code == 409
    assert not service.locked(third)
    assert sorted(service.unlock("a", tokens)) == [first, second]
    assert service.lock("b", [third, first], exp=LONG)


def test_one_of_several_keys_can_be_unlocked_and_the_others_stay(
    service: Service, prefix: str
) -> None:
    first, second = f"{prefix}x", f"{prefix}y"
    tokens = service.lock("a", [first, second], exp=LONG)
    assert service.unlock("a", tokens[:1]) == [first]
    assert not service.locked(first)
    assert service.locked(second)
    assert service.unlock("a", tokens) == [second]


def test_a_check_tells_whether_at_least_one_key_is_locked(service: Service, prefix: str) -> None:
    service.lock("a", f"{prefix}x", exp=LONG)
    assert service.post("/check", keys=f"{prefix}x").json() == {"locked": True}
    assert service.post("/check", keys=f"{prefix}y").json() == {"locked": False}
    assert service.locked(f"{prefix}y", f"{prefix}x")


@pytest.mark.parametrize("kind", [ReadLock, WriteLock])
def test_readers_and_writers_are_checked_too_and_are_another_lock_than_that_of_the_service(
    service: Service, store: str, key: str, kind: type[ReadLock] | type[WriteLock]
) -> None:
    with connect(store) as client:
        lock = kind(client, key, "program", ttl=60)
        lock.lock()
        assert service.locked(key)
        tokens = service.lock("a", key, exp=LONG)
        lock.unlock()
        assert service.locked(key)
        service.unlock("a", tokens)
        assert not service.locked(key)
        lock.destroy()


@pytest.mark.parametrize("wrong", ["uid", "version", "key"])
def test_nobody_unlocks_what_is_not_theirs(service: Service, key: str, wrong: str) -> None:
    (token,) = service.lock("a", key, exp=LONG)
    uid = "b" if wrong == "uid" else "a"
    given = {
        "key": f"{key}-other" if wrong == "key" else key,
        "version": token["version"] + (wrong == "version"),
    }
    assert service.unlock(uid, [given]) == []
    assert service.post("/renew", uid=uid, tokens=[given]).status_code == 409
    assert service.locked(key)


def test_a_lock_is_free_after_its_expiry_and_not_before(service: Service, key: str) -> None:
    began = monotonic()
    service.lock("a", key, exp=300)
    assert service.lock("b", key, wait=LONG)
    assert monotonic() - began >= 0.3


def test_the_service_ends_a_hold_long_before_its_lease_would(
    own: Callable[..., Service], key: str
) -> None:
    service = own("memory://", default_expiry=50)
    service.client.store.state.floor = 3600  # type: ignore[attr-defined]
    service.lock("a", key)
    until(lambda: not service.locked(key))
    assert not service.client.store.state.leases  # type: ignore[attr-defined]


def test_nothing_is_left_of_a_hold_that_was_renewed_and_unlocked(
    own: Callable[..., Service], prefix: str
) -> None:
    service = own("memory://")
    leases = service.client.store.state.leases  # type: ignore[attr-defined]
    tokens = service.lock("a", [f"{prefix}x", f"{prefix}y"], exp=LONG)
    for _ in range(2):
        answer = service.post("/renew", uid="a", tokens=tokens, exp=LONG)
        assert len(answer.json()["renewed"]) == 2
    until(lambda: len(leases) == 1)
    service.unlock("a", tokens[:1])
    assert len(leases) == 1
    service.unlock("a", tokens[1:])
    until(lambda: not leases)


# Beside that.


def test_a_client_waits_its_turn(service: Service, key: str) -> None:
    tokens = service.lock("a", key, exp=LONG)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(service.lock, "b", key, wait=LONG, exp=LONG)
        until(lambda: service.queue(key)["waiters"])
        assert [each["node_id"] for each in service.queue(key)["waiters"]] == ["b"]
        service.unlock("a", tokens)
        (token,) = waiting.result(DEADLINE)
    assert service.queue(key)["holders"][0]["token"] == token["version"]


def test_a_wait_that_ends_in_vain_leaves_nothing(service: Service, key: str) -> None:
    service.lock("a", key, exp=LONG)
    assert service.post("/lock", uid="b", keys=key, wait=50).status_code == 409
    assert service.queue(key)["waiters"] == []


def test_a_client_that_goes_while_it_waits_leaves_nothing(service: Service, prefix: str) -> None:
    first, second = f"{prefix}x", f"{prefix}y"
    service.lock("a", first, exp=LONG)
    body = b'{"uid": "b", "keys": ["%s", "%s"], "wait": 60000}' % (first.encode(), second.encode())
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        head = f"POST /lock HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        until(lambda: service.queue(first)["waiters"])
        assert service.locked(second)  # who waits in one queue stands in all
    until(lambda: not service.queue(first)["waiters"])
    assert not service.locked(second)


def test_a_renewal_holds_the_lock_for_another_time(service: Service, key: str) -> None:
    tokens = service.lock("a", key, exp=400)
    assert service.post("/renew", uid="a", tokens=tokens, exp=LONG).json() == {"renewed": [key]}
    before = monotonic()
    while monotonic() - before < 0.6:
        assert service.locked(key)
    assert service.queue(key)["holders"][0]["token"] == tokens[0]["version"]
    assert service.post("/renew", uid="a", tokens=tokens, exp=50).json() == {"renewed": [key]}
    until(lambda: not service.locked(key))
    lost = service.post("/renew", uid="a", tokens=tokens)
    assert lost.status_code == 409
    assert lost.json() == {"error": f"{key!r}: not held by a with this version", "renewed": []}


def test_of_several_keys_those_end_that_are_not_renewed(service: Service, prefix: str) -> None:
    first, second = f"{prefix}x", f"{prefix}y"
    tokens = service.lock("a", [first, second], exp=400)
    renewed = service.post("/renew", uid="a", tokens=tokens[:1], exp=LONG).json()
    assert renewed == {"renewed": [first]}
    until(lambda: not service.locked(second))
    again = service.post("/renew", uid="a", tokens=tokens, exp=LONG)
    assert (again.status_code, again.json()["renewed"]) == (409, [first])
    assert service.locked(first)
    assert service.unlock("a", tokens) == [first]


def test_another_service_unlocks_and_renews_what_one_has_locked(
    service: Service, other: Service, prefix: str
) -> None:
    first, second = f"{prefix}x", f"{prefix}y"
    tokens = service.lock("a", [first, second], exp=500)
    assert other.post("/renew", uid="a", tokens=tokens, exp=LONG).json()["renewed"]
    before = monotonic()
    while monotonic() - before < 0.7:  # the first service does not end what the second renewed
        assert service.locked(first)
    assert other.post("/lock", uid="b", keys=first).status_code == 409
    assert sorted(other.unlock("a", tokens)) == [first, second]
    assert service.lock("b", first, exp=LONG)


def test_two_services_serve_one_queue_and_never_two_at_once(
    service: Service, other: Service, key: str
) -> None:
    seen: list[int] = []
    holding = []

    def cycle(number: int) -> None:
        here = (service, other)[number % 2]
        tokens = here.lock(f"node-{number}", key, wait=LONG, exp=LONG)
        holding.append(number)
        assert holding == [number]
        seen.append(tokens[0]["version"])
        holding.clear()
        assert here.unlock(f"node-{number}", tokens) == [key]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cycle, range(16)))
    assert seen == sorted(set(seen))
    assert len(seen) == 16


def test_a_restart_loses_nothing(own: Callable[..., Service], store: str, prefix: str) -> None:
    first, second = f"{prefix}x", f"{prefix}y"
    before = own(store)
    tokens = before.lock("a", [first, second], exp=LONG)
    before.stop()
    after = own(store)
    assert after.queue(first)["holders"][0]["node_id"] == "a"
    assert after.post("/renew", uid="a", tokens=tokens, exp=LONG).json()["renewed"]
    assert after.unlock("a", tokens[:1]) == [first]
    assert after.unlock("a", tokens) == [second]


def test_what_a_service_has_locked_when_it_ends_is_free_when_the_lease_is(key: str) -> None:
    async def main() -> None:
        with MemoryStore() as store:
            client = store.connect()
            holds = Holds(client, Settings())
            await store.until(holds.lock("a", [key], LONG, 0))
            assert len(holds.expiry) == 1
            await holds.close()
            assert len(holds.expiry) == 0
            await store.advance_async(LONG / 1000)
            assert await holds.locked([key])
            await store.advance_async(LONG / 1000 / 9 + 1)
            assert not await holds.locked([key])

    asyncio.run(main())


def test_python_programs_and_clients_of_the_service_exclude_each_other(
    service: Service, store: str, key: str
) -> None:
    with connect(store) as client:
        lock = Microlock(client, key, "program", ttl=60)
        token = lock.lock().token
        assert service.post("/lock", uid="a", keys=key).json()["holder"]["node_id"] == "program"
        assert service.unlock("program", [{"key": key, "version": token}]) == [key]
        assert service.lock("a", key, exp=LONG)
        lock.destroy()


def test_the_names_of_clients_begin_with_the_prefix_of_the_service(
    own: Callable[..., Service], service: Service, store: str, prefix: str
) -> None:
    within = own(store, prefix=prefix)
    tokens = within.lock("a", ["x", "y"], exp=LONG)
    assert [each["key"] for each in tokens] == ["x", "y"]
    assert service.locked(f"{prefix}x")
    assert [each["key"] for each in within.http.get("/locks").json()["locks"]] == ["x", "y"]
    assert within.post("/renew", uid="a", tokens=tokens, exp=LONG).json()["renewed"] == ["x", "y"]
    assert within.unlock("a", tokens) == ["x", "y"]


# Who looks.


def test_all_locks_are_told_with_who_holds_them_and_who_waits(
    service: Service, store: str, prefix: str
) -> None:
    with connect(store) as client:
        readers = [ReadLock(client, f"{prefix}rw", f"r{n}", ttl=60) for n in range(2)]
        for each in readers:
            each.lock()
        service.lock("a", [f"{prefix}x", f"{prefix}y"], exp=LONG)
        answer = service.http.get("/locks").json()
        rw, x, y = (each for each in answer["locks"] if each["key"].startswith(prefix))
        assert rw["kind"] == "readers/writers"
        assert [(each["node_id"], each["role"]) for each in rw["holders"]] == [
            ("r0", "reader"),
            ("r1", "reader"),
        ]
        assert x["holders"] == y["holders"]
        assert answer["revision"] >= x["holders"][0]["token"]
        leases = [x["holders"][0]["lease"], rw["holders"][0]["lease"], "abc"]
        left = service.http.get("/leases", params={"id": leases}).json()["leases"]
        assert left.keys() == {*leases[:2]}
        assert all(0 < each <= 67 for each in left.values())  # a lease is a ninth longer
        for each in readers:
            each.destroy()


def test_who_listens_is_told_of_all_locks_and_then_of_each_that_changes(
    service: Service, prefix: str
) -> None:
    key = f"{prefix}x"
    tokens = service.lock("a", key, exp=LONG)
    with service.events() as events:
        assert next(events) == ("status", {"connected": True, "error": None})
        name, snapshot = next(events)
        assert name == "snapshot"
        assert service.queue(key) in snapshot["locks"]
        service.unlock("a", tokens)
        (token,) = service.lock("<b>", f"{prefix}\u2028y\n", exp=LONG)
        seen: dict[str, Any] = {}
        for name, change in events:
            assert name == "change"
            assert change["revision"] > snapshot["revision"]
            seen |= {each["key"]: each for each in change["locks"]}
            if len(seen) == 2:
                break
        assert (seen[key]["holders"], seen[key]["waiters"]) == ([], [])
        assert seen[token["key"]]["holders"][0]["node_id"] == "<b>"


def test_what_a_listener_has_put_together_is_what_all_locks_are(
    service: Service, other: Service, prefix: str
) -> None:
    chance = random.Random(7)

    def come_and_go(number: int) -> None:
        here, uid = (service, other)[number % 2], f"node-{number}"
        for _ in range(6):
            keys = chance.sample([f"{prefix}{each}" for each in range(4)], 2)
            tokens = here.lock(uid, keys, wait=LONG, exp=LONG)
            here.unlock(uid, tokens[: chance.randint(1, 2)])
            here.unlock(uid, tokens)

    with ThreadPoolExecutor(6) as pool, service.events() as events:
        list(pool.map(come_and_go, range(6)))
        service.lock("last", [f"{prefix}0", f"{prefix}last"], exp=LONG)
        seen: dict[str, Any] = {}
        while f"{prefix}last" not in seen:
            _, data = next(events)
            seen |= {each["key"]: each for each in data.get("locks", ())}
        held = [each for each in seen.values() if each["holders"] and prefix in each["key"]]
        locks = service.http.get("/locks").json()["locks"]
        assert sorted(held, key=lambda each: each["key"]) == [
            each for each in locks if prefix in each["key"]
        ]


@pytest.mark.parametrize("whom", ["the holder", "a waiter"])
def test_an_operator_breaks_a_hold_by_its_token(service: Service, key: str, whom: str) -> None:
    (token,) = service.lock("a", key, exp=LONG)
    wrong = service.post("/break", key=key, token=token["version"] + 1)
    assert wrong.json() == {"broken": None}
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(service.post, "/lock", uid="b", keys=key, wait=1000, exp=LONG)
        (waiter,) = until(lambda: service.queue(key)["waiters"])
        broken = waiter if whom == "a waiter" else service.queue(key)["holders"][0]
        answer = service.post("/break", key=key, token=broken["token"])
        assert answer.json() == {"broken": broken}
        assert waiting.result().status_code == (200 if whom == "the holder" else 409)


def test_a_hold_of_a_reader_is_broken_too(service: Service, store: str, key: str) -> None:
    with connect(store) as client:
        lock = ReadLock(client, key, "reader", ttl=60)
        token = lock.lock().token
        answer = service.post("/break", key=key, token=token)
        assert answer.json()["broken"]["role"] == "reader"
        lock.destroy()


def test_it_is_healthy_as_long_as_the_store_answers(service: Service) -> None:
    assert service.http.get("/healthz").json() == {"status": "ok"}
    assert [service.http.head(path).status_code for path in ("/", "/healthz")] == [200, 200]


def test_an_application_without_metrics_says_so(service: Service) -> None:
    answer = service.http.get("/metrics")
    assert answer.status_code == 404
    assert answer.json() == {"error": "this service has no metrics"}


def test_no_request_is_answered_by_another_sites_leave(service: Service) -> None:
    answer = service.http.get("/locks", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = service.http.options("/lock", headers={"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 405
