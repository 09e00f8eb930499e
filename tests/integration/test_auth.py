"""User and password: what is refused is named, what expires is renewed, and nothing tells."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import grpc
import pytest
from certificates import Pki, tls
from conftest import Etcd
from ctl import Etcdctl
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, Witness, assert_works, at_most, entries, leases

from microlock import (
    LossReason,
    Microlock,
    StoreAuthenticationError,
    StoreError,
    StorePermissionError,
    StoreTlsError,
    connect,
)
from microlock.asyncio import Microlock as TaskLock
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.client import EtcdClient
from microlock.etcd.messages import AUTHENTICATE, RANGE

TIMEOUT = 20.0
PASSWORD = "correct-horse-battery-staple"
ROOT = ("root", "root-of-all")
OwnEtcd = Callable[..., Etcd]


class Guarded:
    """An etcd with authentication, seen by root. `worker` may do all under `mine/`, `reader`
    may read there."""

    def __init__(self, etcd: Etcd, *flags: str) -> None:
        self.endpoint = etcd.endpoint
        self._flags = flags
        self.ctl("user", "add", ":".join(ROOT))
        self.ctl("user", "grant-role", "root", "root")
        for user, permission in (("worker", "readwrite"), ("reader", "read")):
            self.ctl("user", "add", f"{user}:{PASSWORD}")
            self.ctl("role", "add", user)
            self.ctl("user", "grant-role", user, user)
            self.grant(user, permission)
        self.ctl("auth", "enable")
        self._flags = (*flags, f"--user={':'.join(ROOT)}")

    def ctl(self, *arguments: str) -> str:
        return Etcdctl(self.endpoint)(*self._flags, *arguments)

    def grant(self, user: str, permission: str) -> None:
        self.ctl("role", "grant-permission", "--prefix=true", user, permission, "mine/")

    def revoke(self, user: str) -> None:
        self.ctl("role", "revoke-permission", "--prefix=true", user, "mine/")

    def client(self, user: str = "worker", password: str = PASSWORD) -> EtcdClient:
        return connect(self.endpoint, user=user, password=password, timeout=TIMEOUT)

    def root(self) -> EtcdClient:
        return self.client(*ROOT)

    def outlive_the_tokens(self) -> None:
        """Returns when tokens that were last used before this are no longer taken.

        Asking with a token makes it live on, so each look has one of its own that nobody uses.
        """
        deadline = monotonic() + DEADLINE
        with grpc.insecure_channel(self.endpoint) as channel:
            log_in = channel.unary_unary(
                AUTHENTICATE,
                request_serializer=pb.AuthenticateRequest.SerializeToString,
                response_deserializer=pb.AuthenticateResponse.FromString,
            )
            read = channel.unary_unary(
                RANGE,
                request_serializer=pb.RangeRequest.SerializeToString,
                response_deserializer=pb.RangeResponse.FromString,
            )
            while monotonic() < deadline:
                token = log_in(pb.AuthenticateRequest(name=ROOT[0], password=ROOT[1])).token
                sleep(TOKEN_TTL + 1.2)
                try:
                    read(pb.RangeRequest(key=b"canary"), metadata=(("token", token),))
                except grpc.RpcError as error:
                    assert "invalid auth token" in str(error)  # noqa: PT017
                    return
        raise AssertionError("the tokens of etcd do not expire")


TOKEN_TTL = 1


@pytest.fixture
def guarded(own_etcd: OwnEtcd) -> Guarded:
    return Guarded(own_etcd())


@pytest.fixture
def forgetful(own_etcd: OwnEtcd) -> Guarded:
    """Its tokens live for a second after their last use."""
    return Guarded(own_etcd(flags=[f"--auth-token-ttl={TOKEN_TTL}"]))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.made_in(tmp_path_factory.mktemp("pki"))


# Who may


def test_a_user_of_the_locks_prefix_alone_can_do_everything(guarded: Guarded) -> None:
    with guarded.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=5)
        assert_works(foo)
        assert foo.waiters() == []
        foo.lock()
        foo.destroy()
    assert entries(guarded.ctl, "mine") == []
    assert leases(guarded.ctl) == []


def test_user_and_password_work_over_tls(own_etcd: OwnEtcd, pki: Pki) -> None:
    guarded = Guarded(own_etcd(flags=tls(pki.server)), f"--cacert={pki.ca}")
    with connect(
        guarded.endpoint, ca_cert=pki.ca, user="worker", password=PASSWORD, timeout=TIMEOUT
    ) as etcd:
        assert_works(Microlock(etcd, "mine", "node-a", ttl=5))


# Who may not


def assert_refused(etcd: EtcdClient, key: str, error: type[StoreError]) -> list[StoreError]:
    """Every call that asks etcd gives this error, at once. Returns them."""
    told: list[StoreError] = []
    calls: list[Callable[[Microlock], object]] = [
        lambda foo: foo.lock(),
        lambda foo: foo.unlock(),
        lambda foo: foo.renew(),
        lambda foo: foo.extend(5),
        lambda foo: foo.holder(),
        lambda foo: foo.waiters(),
        lambda foo: foo.on("unlocked", print),
    ]
    for call in calls:
        foo = Microlock(etcd, key, "node-a")
        with at_most(AT_ONCE), pytest.raises(error) as refused:
            call(foo)
        assert type(refused.value) is error
        assert not refused.value.may_have_happened
        assert not foo.listeners("unlocked")
        foo.destroy()
        told.append(refused.value)
    return told


def test_a_wrong_password_is_named_at_once(guarded: Guarded) -> None:
    with guarded.client(password="wrong") as etcd:
        errors = assert_refused(etcd, "mine", StoreAuthenticationError)
    assert all(guarded.endpoint in str(error) for error in errors)


def test_an_unknown_user_is_named_at_once(guarded: Guarded) -> None:
    with guarded.client(user="nobody") as etcd:
        assert_refused(etcd, "mine", StoreAuthenticationError)


def test_no_user_where_one_is_needed_is_named_at_once(guarded: Guarded) -> None:
    with connect(guarded.endpoint, timeout=TIMEOUT) as etcd:
        assert_refused(etcd, "mine", StoreAuthenticationError)


def test_a_wrong_ca_is_a_tls_error_before_the_password_is_sent(own_etcd: OwnEtcd, pki: Pki) -> None:
    guarded = Guarded(own_etcd(flags=tls(pki.server)), f"--cacert={pki.ca}")
    with connect(
        guarded.endpoint, ca_cert=pki.other_ca, user="worker", password=PASSWORD, timeout=TIMEOUT
    ) as etcd:
        assert_refused(etcd, "mine", StoreTlsError)


def test_a_forbidden_key_is_a_permission_error_for_every_call(guarded: Guarded) -> None:
    with guarded.client() as etcd:
        errors = assert_refused(etcd, "theirs", StorePermissionError)
    assert all(guarded.endpoint in str(error) for error in errors)
    assert leases(guarded.ctl) == []


def test_who_may_only_read_can_look_and_listen_and_leaves_nothing(guarded: Guarded) -> None:
    with guarded.client("reader") as etcd, guarded.client() as other:
        foo = Microlock(etcd, "mine", "node-r")
        witness = Witness(foo, "locked", "unlocked")
        assert foo.holder() is None
        with at_most(AT_ONCE), pytest.raises(StorePermissionError) as refused:
            foo.lock()
        assert not refused.value.may_have_happened
        assert entries(guarded.ctl, "mine") == []
        assert leases(guarded.ctl) == []
        bar = Microlock(other, "mine", "node-a", ttl=5)
        bar.lock()
        bar.unlock()
        assert witness.saw("locked", "unlocked")


def test_a_forbidden_watch_disturbs_no_other_of_its_client(guarded: Guarded) -> None:
    with guarded.client() as etcd:
        one = Microlock(etcd, "mine/one", "node-a", ttl=5)
        before = Witness(one, "locked", "unlocked", "error")
        with at_most(AT_ONCE), pytest.raises(StorePermissionError):
            Microlock(etcd, "theirs", "node-a").on("unlocked", print)
        two = Microlock(etcd, "mine/two", "node-a", ttl=5)
        after = Witness(two, "locked", "unlocked", "error")
        for lock in (one, two):
            lock.lock()
            lock.unlock()
        assert before.saw("locked", "unlocked")
        assert after.saw("locked", "unlocked")


def test_a_first_watch_that_is_forbidden_leaves_room_for_others(guarded: Guarded) -> None:
    with guarded.client() as etcd:
        with at_most(AT_ONCE), pytest.raises(StorePermissionError):
            Microlock(etcd, "theirs", "node-a").on("unlocked", print)
        assert_works(Microlock(etcd, "mine", "node-a", ttl=5))


def test_a_permission_revoked_while_a_lock_is_held_is_named_and_the_hold_stands(
    guarded: Guarded,
) -> None:
    with guarded.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked", "error")
        token = foo.lock().token
        guarded.revoke("worker")
        for call in (foo.renew, foo.unlock, lambda: foo.extend(60), foo.holder):
            with at_most(AT_ONCE), pytest.raises(StorePermissionError):
                call()
        assert foo.held
        assert foo.token == token
        guarded.grant("worker", "readwrite")
        assert foo.renew() > 50
        foo.unlock()
        assert witness.saw("locked", "unlocked")


def test_one_lease_that_may_not_be_renewed_any_more_ends_its_own_hold_alone(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd(flags=["--bcrypt-cost=4"])
    version = tuple(map(int, server.version.split(".")))
    if version < (3, 5, 28) or (3, 6) <= version < (3, 6, 9):
        pytest.skip("this etcd renews leases whatever is under them")
    guarded = Guarded(server)
    guarded.ctl("role", "grant-permission", "--prefix=true", "worker", "readwrite", "also/")
    with guarded.client() as etcd:
        bad = Microlock(etcd, "also", "node-a", ttl=3, auto_renew=True)
        good = [Microlock(etcd, f"mine/{n}", "node-a", ttl=3, auto_renew=True) for n in range(10)]
        told = Witness(bad, "suspended", "lost")
        others = [Witness(each, "suspended", "lost") for each in good]
        for each in (bad, *good):
            each.lock()
        guarded.ctl("role", "revoke-permission", "--prefix=true", "worker", "also/")
        assert bad.lost.wait(DEADLINE)
        assert bad.lost_reason is LossReason.REFUSED
        assert told.saw("suspended", "lost")
        assert all(isinstance(each, StorePermissionError) for each in told.errors())
        assert len(told.errors()) == 2
        assert not good[0].lost.wait(4)
        assert all(each.held for each in good)
        assert [each.names for each in others] == [[]] * 10


def test_a_watch_whose_permission_is_gone_when_it_resumes_says_so_and_ends_alone(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    guarded = Guarded(server)
    guarded.ctl("role", "grant-permission", "--prefix=true", "worker", "readwrite", "also/")
    with guarded.client() as etcd, guarded.root() as other:
        kept, gone = Microlock(etcd, "also", "node-a"), Microlock(etcd, "mine", "node-a")
        events = Witness(kept, "locked", "unlocked")
        errors = Witness(gone, "error")
        gone.on("unlocked", print)
        guarded.revoke("worker")
        server.kill()
        server.start()
        assert eventually(
            lambda: any(isinstance(error, StorePermissionError) for error in errors.errors())
        ), errors.events
        theirs = Microlock(other, "also", "node-b", ttl=60)
        theirs.lock()
        theirs.unlock()
        assert events.saw("locked", "unlocked"), events.events
        guarded.grant("worker", "readwrite")
        assert_works(gone)


# Authentication that is off


def test_a_user_does_no_harm_where_authentication_is_off(etcd_server: Etcd, key: str) -> None:
    with connect(etcd_server.endpoint, user="u", password=PASSWORD, timeout=TIMEOUT) as etcd:
        assert_works(Microlock(etcd, key, "node-a", ttl=5))


def renewed_twice(foo: Microlock) -> bool:
    """Whether it comes to be; the first time may have been under way."""
    return len(Recorder(foo, "renewed").wait_for(2)) >= 2


def test_authentication_is_switched_off_and_on_and_no_hold_is_lost(guarded: Guarded) -> None:
    with guarded.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=3, auto_renew=True)
        witness = Witness(foo, "locked", "unlocked", "suspended", "lost")
        foo.lock()
        guarded.ctl("auth", "disable")
        assert renewed_twice(foo)
        assert_works(Microlock(etcd, "mine/off", "node-a", ttl=5))
        Etcdctl(guarded.endpoint)("auth", "enable")
        assert renewed_twice(foo)
        assert_works(Microlock(etcd, "mine/on", "node-a", ttl=5))
        foo.unlock()
        assert witness.saw("locked", "unlocked"), witness.events


# Users and roles that change


@pytest.mark.parametrize("tokens", ["simple", "jwt"])
def test_changes_of_users_and_roles_are_not_seen(
    own_etcd: OwnEtcd, tmp_path: Path, tokens: str
) -> None:
    flags = ["--bcrypt-cost=4"] + [f"--auth-token={_jwt(tmp_path)}"] * (tokens == "jwt")
    guarded = Guarded(own_etcd(flags=flags))
    stop = threading.Event()
    changes: list[str] = []

    def change() -> None:
        while not stop.wait(0.02):
            changes.append(guarded.ctl("role", "add", f"role-{len(changes)}"))

    with guarded.client() as etcd, ThreadPoolExecutor(1) as pool:
        kept = Microlock(etcd, "mine/kept", "node-a", ttl=2, auto_renew=True)
        witness = Witness(kept, "suspended", "lost", "error", "failed")
        kept.lock()
        changing = pool.submit(change)
        cycles = 0
        try:
            foo = Microlock(etcd, "mine/foo", "node-a", ttl=60)
            while cycles < 100 or (len(changes) < 25 and not changing.done()):
                with foo:
                    cycles += 1
        finally:
            stop.set()
        changing.result()
        assert kept.held
        assert witness.names == []


# Tokens that expire


def test_calls_renew_an_expired_token_unseen(forgetful: Guarded) -> None:
    with ExitStack() as stack:

        def lock(call: str) -> Microlock:
            """With a token of its own."""
            etcd = stack.enter_context(forgetful.client())
            foo = Microlock(etcd, f"mine/{call}", "node-a", ttl=60)
            foo.lock()
            return foo

        renewed, unlocked, locked, destroyed = map(lock, ("renew", "unlock", "lock", "destroy"))
        locked.unlock()
        forgetful.outlive_the_tokens()
        assert renewed.renew() > 50
        unlocked.unlock()
        locked.lock()
        destroyed.destroy()
        for each in (renewed, unlocked, locked):
            each.destroy()
        assert entries(forgetful.ctl, "mine") == []
        assert leases(forgetful.ctl) == []


def test_threads_that_share_an_expired_token_all_get_a_new_one(forgetful: Guarded) -> None:
    with forgetful.client() as etcd, ThreadPoolExecutor(8) as pool:
        locks = [Microlock(etcd, f"mine/{i}", "node-a", ttl=60) for i in range(8)]
        list(pool.map(Microlock.holder, locks))
        forgetful.outlive_the_tokens()
        assert list(pool.map(Microlock.holder, locks)) == [None] * 8


def test_tasks_that_share_an_expired_token_all_get_a_new_one(forgetful: Guarded) -> None:
    async def main() -> None:
        async with forgetful.client() as etcd:
            locks = [TaskLock(etcd, f"mine/{each}", "node-a", ttl=60) for each in range(20)]
            await asyncio.gather(*(each.lock() for each in locks))
            await asyncio.to_thread(forgetful.outlive_the_tokens)
            await asyncio.gather(*(each.renew() for each in locks))
            await asyncio.gather(*(each.unlock() for each in locks))
            await asyncio.gather(*(each.destroy() for each in locks))

    asyncio.run(main())
    assert entries(forgetful.ctl, "mine") == []


def test_a_watch_lives_on_when_its_token_expires(forgetful: Guarded) -> None:
    with forgetful.client() as etcd, forgetful.root() as other:
        foo = Microlock(etcd, "mine", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked", "error")
        forgetful.outlive_the_tokens()
        theirs = Microlock(other, "mine", "node-b", ttl=60)
        theirs.lock()
        theirs.unlock()
        assert witness.saw("locked", "unlocked")


def test_a_watch_added_to_a_stream_with_an_expired_token_works_and_disturbs_no_other(
    forgetful: Guarded,
) -> None:
    with forgetful.client() as etcd, forgetful.root() as other:
        old = Microlock(etcd, "mine/old", "node-a", ttl=60)
        before = Witness(old, "locked", "unlocked", "error")
        forgetful.outlive_the_tokens()
        new = Microlock(etcd, "mine/new", "node-a", ttl=60)
        with at_most(AT_ONCE):
            after = Witness(new, "locked", "unlocked", "error")
        for key in ("mine/old", "mine/new"):
            theirs = Microlock(other, key, "node-b", ttl=60)
            theirs.lock()
            theirs.unlock()
        assert after.saw("locked", "unlocked")
        assert before.saw("locked", "unlocked")


def test_a_forbidden_watch_on_a_stream_with_an_expired_token_is_a_permission_error(
    forgetful: Guarded,
) -> None:
    with forgetful.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked", "error")
        forgetful.outlive_the_tokens()
        with at_most(AT_ONCE), pytest.raises(StorePermissionError):
            Microlock(etcd, "theirs", "node-a").on("unlocked", print)
        foo.lock()
        foo.unlock()
        assert witness.saw("locked", "unlocked")


def test_an_etcd_that_restarts_has_forgotten_the_tokens_and_nobody_notices(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    guarded = Guarded(server)
    with guarded.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked")
        token = foo.lock().token
        server.kill()
        server.start()
        assert foo.renew() > 50
        assert foo.token == token
        foo.unlock()
        assert witness.saw("locked", "unlocked"), witness.events


def test_a_changed_password_is_named_at_once_when_the_token_expires(forgetful: Guarded) -> None:
    with forgetful.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=60)
        foo.lock()
        forgetful.ctl("user", "delete", "worker")
        with at_most(AT_ONCE), pytest.raises(StoreAuthenticationError):
            foo.renew()
        assert foo.held


def test_tokens_of_jwt_are_renewed_unseen_when_permissions_change(
    own_etcd: OwnEtcd, tmp_path: Path
) -> None:
    guarded = Guarded(own_etcd(flags=[f"--auth-token={_jwt(tmp_path)}"]))
    with guarded.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked", "error")
        foo.lock()
        guarded.ctl("role", "add", "another")  # their revision makes every token old
        assert foo.renew() > 50
        guarded.ctl("role", "add", "one-more")
        bar = Microlock(etcd, "mine/bar", "node-a", ttl=60)
        assert_works(bar)
        foo.unlock()
        assert witness.saw("locked", "unlocked"), witness.events


def _jwt(directory: Path) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = directory / "jwt.key", directory / "jwt.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=10m"


# Secrets


def test_neither_password_nor_token_is_told_by_errors_reprs_or_logs(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter2-wrong"
    said: list[str] = []
    for password, key in ((secret, "mine"), (PASSWORD, "theirs")):
        with guarded.client(password=password) as etcd:
            foo = Microlock(etcd, key, "node-a")
            witness = Witness(foo, "error", "failed")
            for call in (foo.lock, foo.holder, lambda foo=foo: foo.on("unlocked", print)):
                with pytest.raises(StoreError) as refused:
                    call()
                said += traceback.format_exception(refused.value)
                said += _chain(refused.value)
            said += [repr(etcd), str(etcd), repr(foo), str(foo), repr(vars(etcd)), repr(vars(foo))]
            token = dict(etcd.store._identity.known() or ()).get("token")  # type: ignore[attr-defined]
            foo.destroy()
            said += map(repr, witness.events)
        assert token is None or all(token not in text for text in (*said, caplog.text))
    assert all(word not in text for word in (secret, PASSWORD) for text in (*said, caplog.text))


def _chain(error: BaseException | None) -> Sequence[str]:
    told: list[str] = []
    while error:
        told += [str(error), repr(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return told
