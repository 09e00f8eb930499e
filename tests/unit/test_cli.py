"""Commands that are no processes: on a store in memory."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner, Result

from microlock import Client, LockManager, Microlock, connect, events
from microlock.cli.commands import RunsCommand
from microlock.cli.number import Number
from microlock.cli.others import ServeCommand
from microlock.cli.program import program
from microlock.core.port import ReadAll
from microlock.errors import StorePermissionError, StoreTimeoutError
from microlock.events import LockEvent
from microlock.memory.store import Memory
from microlock.server import EtcdServer, EtcdServerError

Call = Callable[..., Result]


@pytest.fixture
def address() -> str:
    return f"memory://cli-{uuid4().hex[:8]}"


@pytest.fixture
def etcd(address: str) -> Iterator[Client]:
    with connect(address) as client:
        yield client


@pytest.fixture
def jobs(etcd: Client) -> LockManager:
    return LockManager(etcd, "me", ttl=60)


@pytest.fixture
def call(address: str, etcd: Client, monkeypatch: pytest.MonkeyPatch) -> Call:
    for name in os.environ:
        if name.startswith("MICROLOCK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MICROLOCK_ETCD", address)

    def call(*arguments: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(program, arguments, input=input, prog_name="microlock")
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return call


def said(result: Result) -> tuple[int, str, str]:
    return result.exit_code, result.stdout, result.stderr


# lock, unlock, extend


def test_a_lock_that_is_taken_stays_held_and_is_given_back_by_its_token(
    call: Call, jobs: LockManager
) -> None:
    status, token, _ = said(call("lock", "foo", "--ttl", "300", "--node-id", "script"))
    holder = jobs.holder("foo")
    assert holder
    assert (status, token, holder.node_id) == (0, f"{holder.token}\n", "script")
    assert 200 < jobs.remaining(holder) <= 300
    assert said(call("unlock", "foo", token.strip())) == (0, "", "")
    assert jobs.holder("foo") is None


def test_a_hold_gets_another_ttl_by_its_token(call: Call, jobs: LockManager) -> None:
    token = call("lock", "foo").stdout.strip()
    status, left, _ = said(call("extend", "foo", token, "--ttl", "500"))
    holder = jobs.holder("foo")
    assert holder
    assert status == 0
    assert 400 < float(left) <= 500
    assert 400 < jobs.remaining(holder) <= 500


@pytest.mark.parametrize("command", ["unlock", "extend"])
def test_what_is_not_held_by_the_token_is_76_and_untouched(
    call: Call, jobs: LockManager, command: str
) -> None:
    foo = jobs.lock("foo")
    theirs = f"me holds it with token {foo.token}"
    assert said(call(command, "foo", "1")) == (
        76,
        "",
        f"microlock: 'foo' is not held with token 1; {theirs}\n",
    )
    assert said(call(command, "bar", "1"))[2] == "microlock: 'bar' is not held with token 1\n"
    foo.check()


def test_who_does_not_get_a_lock_learns_who_holds_it(call: Call, jobs: LockManager) -> None:
    foo = jobs.lock("foo")
    locked = "microlock: 'foo' is locked by me\n"
    assert said(call("lock", "foo", "--no-wait")) == (75, "", locked)
    assert said(call("lock", "foo", "--wait", "0.01", "--conflict-exit-code", "9"))[0] == 9
    assert said(call("lock", "foo", "--no-wait", "--conflict-exit-code", "0")) == (0, "", "")
    assert foo.waiters() == []


def test_options_say_which_kind_of_lock_it_is(call: Call, jobs: LockManager) -> None:
    def status(*options: str) -> int:
        return said(call("lock", *options, "--no-wait"))[0]

    assert [status("foo", "--limit", "2") for _ in range(3)] == [0, 0, 75]
    assert [status("bar", "--shared") for _ in range(2)] == [0, 0]
    assert status("bar", "--exclusive") == 75
    second = jobs.locks()[1].waiters[0].token
    assert status("foo", "--limit", "2") == 75
    assert said(call("unlock", "foo", f"{second}", "--limit", "2"))[0] == 0
    assert status("foo", "--limit", "2") == 0


@pytest.mark.parametrize("command", ["unlock", "extend"])
def test_a_semaphore_is_given_back_and_extended_with_its_limit(
    call: Call, jobs: LockManager, command: str
) -> None:
    first, other = jobs.semaphore("foo", 2), jobs.semaphore("foo", 2)
    first.lock()
    other.lock()
    status, _, err = said(call(command, "foo", f"{other.token}"))
    assert status == 76
    assert "give the same --limit as for `lock`" in err
    assert said(call(command, "foo", f"{other.token}", "--limit", "2"))[0] == 0
    assert first.held


# break


def test_break_says_whose_hold_it_is_and_asks(call: Call, jobs: LockManager) -> None:
    foo = jobs.lock("foo")
    status, _, err = said(call("break", "foo", input="n\n"))
    assert status == 1
    assert err.startswith(f"foo: me, token {foo.token}, ")
    assert err.endswith("microlock: nothing was broken\n")
    foo.check()
    assert said(call("break", "foo", input="y\n"))[0] == 0
    assert jobs.holder("foo") is None


def test_without_an_answer_nothing_is_broken(call: Call, jobs: LockManager) -> None:
    foo = jobs.lock("foo")
    status, _, err = said(call("break", "foo", input=""))
    assert (status, err.splitlines()[-1]) == (1, "microlock: nothing was broken")
    foo.check()


def test_break_ends_all_readers_or_the_one_with_the_token(call: Call, jobs: LockManager) -> None:
    readers = [jobs.read("foo") for _ in range(3)]
    first, *others = [each.lock().token for each in readers]
    assert said(call("break", "foo", "--yes", "--token", f"{first}"))[0] == 0
    assert [each.token for each in readers[1].holders()] == others
    status, _, err = said(call("break", "foo", "--yes"))
    assert status == 0
    assert [line.split(", ")[0] for line in err.splitlines()[2:]] == [
        "microlock: 'foo': removed the entry of me"
    ] * 2
    assert readers[1].holders() == []


def test_break_ends_any_place_in_a_queue_by_its_token(call: Call, jobs: LockManager) -> None:
    one, other = jobs.semaphore("foo", 2), jobs.semaphore("foo", 2)
    one.lock()
    assert said(call("break", "foo", "--yes", "--token", f"{other.lock().token}"))[0] == 0
    assert [each.token for each in other.holders()] == [one.token]


@pytest.mark.parametrize("kind", ["create", "write"])
def test_break_removes_who_waits_by_its_token(call: Call, jobs: LockManager, kind: str) -> None:
    foo = jobs.read("foo") if kind == "write" else jobs.create("foo")
    foo.lock()
    waiter = getattr(jobs, kind)("foo")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waiter.lock, timeout=60)
        try:
            while not (waits := foo.waiters()):
                pass
            token = f"{waits[0].token}"
            status, _, err = said(call("break", "foo", "--yes", "--token", token))
            assert foo.token
            gone = [each.token for each in foo.waiters()] != [waits[0].token]
        finally:
            waiter.cancel()
        waiting.exception(60)
    assert (status, gone) == (0, True), err
    assert foo.held


def test_what_is_free_is_not_broken(call: Call, jobs: LockManager) -> None:
    foo = jobs.lock("foo/bar")
    assert said(call("break", "foo", "--yes")) == (1, "", "microlock: 'foo' is not held\n")
    assert said(call("break", "foo/bar", "--yes", "--token", "1"))[0] == 1
    foo.check()


# status


def test_status_is_a_table_for_eyes(call: Call, jobs: LockManager) -> None:
    held = jobs.lock("a lock")
    reading = jobs.read("ロック")
    hold = reading.lock()
    status, out, err = said(call("status"))
    assert (status, err) == (0, "")
    head, one, other = out.splitlines()
    assert head.split() == ["LOCK", "STATE", "WHO", "TOKEN", "LEASE"]
    assert one.startswith("a lock  held   me           ")
    assert one.split()[-3] == f"{held.token}"
    assert other.startswith("ロック  held   me (reader)  ")
    assert other.split()[-3] == f"{hold.token}"


def test_status_as_json_is_stable(call: Call, jobs: LockManager) -> None:
    foo = jobs.lock("foo")
    waiter = jobs.create("foo")
    behind = jobs.semaphore("foo", 2)  # not held together: one that takes a mutex waits for both
    behind.lock()
    (lock,) = json.loads(call("status", "--json").stdout)
    assert [*lock] == ["key", "kind", "holders", "waiters"]
    assert (lock["key"], lock["kind"]) == ("foo", "queue")
    (holder,), (second,) = lock["holders"], lock["waiters"]
    assert [*holder] == ["node_id", "role", "token", "lease", "seconds_left"]
    assert (holder["node_id"], holder["role"], holder["token"]) == ("me", None, foo.token)
    assert int(holder["lease"], 16) == waiter.holders()[0].lease_id
    assert 0 < holder["seconds_left"] <= 60
    assert second["token"] == behind.token


def test_status_with_a_limit_shows_the_holders_of_a_semaphore(
    call: Call, jobs: LockManager
) -> None:
    held = [jobs.semaphore("foo", 2), jobs.semaphore("foo", 2), jobs.read("bar")]
    for each in held:
        each.lock()
    locks = json.loads(call("status", "--json", "--limit", "2").stdout)
    found = [[len(lock[each]) for each in ("holders", "waiters")] for lock in locks]
    assert found == [[1, 0], [2, 0]]


@pytest.mark.parametrize(
    ("prefix", "shown"),
    [
        ("", ["foo", "foo/bar", "fop", "goo"]),
        ("foo", ["foo", "foo/bar"]),
        ("foo/", ["foo/bar"]),
        ("fo", ["foo", "foo/bar", "fop"]),
        ("x", []),
    ],
)
def test_status_shows_what_begins_with_the_prefix(
    call: Call, jobs: LockManager, prefix: str, shown: list[str]
) -> None:
    held = [jobs.lock(name) for name in ("foo", "foo/bar", "fop", "goo")]
    assert [each["key"] for each in json.loads(call("status", "--json", prefix).stdout)] == shown
    assert all(each.held for each in held)


def test_without_locks_the_status_says_so(call: Call) -> None:
    assert said(call("status")) == (0, "no locks\n", "")
    assert said(call("status", "--json")) == (0, "[]\n", "")


def test_status_that_watches_goes_on_when_etcd_is_back_and_ends_with_a_refusal(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, refused = StoreTimeoutError("slow"), StorePermissionError("no")
    answers: Iterator[Exception | list[Any]] = iter([away, away, [], away, refused])

    def look(*_: object) -> list[Any]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("microlock.cli.status.look", look)
    monkeypatch.setattr("microlock.cli.status.sleep", lambda _: None)
    away_line = "microlock: etcd does not answer, trying again: slow\n"
    assert said(call("status", "--watch")) == (
        69,
        "no locks\n",
        f"{away_line}{away_line}microlock: no\n",
    )


def test_what_others_call_themselves_is_text(call: Call, etcd: Client) -> None:
    foo = Microlock(etcd, "a\nb\x1b[31m", "me\r\x1b]0;you\x07\u202e", 60)
    foo.lock()
    for command in (["status"], ["break", foo.key, "--yes"]):
        text = call(*command).output
        assert "a\\nb\\x1b[31m" in text
        assert "me\\r\\x1b]0;you\\x07\\u202e" in text


def test_who_may_read_only_below_a_name_sees_the_lock_that_is_called_so(
    call: Call, jobs: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    foo = jobs.lock("foo")
    attempt = Memory.attempt

    def guarded(self: Memory, member: str, request: Any, **options: Any) -> Any:
        if isinstance(request, ReadAll) and not request.prefix.startswith(b"foo/"):
            raise StorePermissionError("permission denied")
        return attempt(self, member, request, **options)

    monkeypatch.setattr(Memory, "attempt", guarded)
    (shown,) = json.loads(call("status", "foo", "--json").stdout)
    assert shown["holders"][0]["token"] == foo.token
    assert said(call("status", "fo"))[0] == 69
    assert said(call("break", "foo", "--yes"))[0] == 0


# Options, variables and files.


def test_a_file_has_options_of_etcd_and_of_commands(
    call: Call, jobs: LockManager, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MICROLOCK_ETCD")
    file = tmp_path / "microlock.ini"
    file.write_text(f"[microlock]\netcd = {address}\n[lock]\nttl = 300\nno-wait = yes\n[run]\n")
    monkeypatch.setenv("MICROLOCK_CONFIG", str(file))
    assert said(call("lock", "foo"))[0] == 0
    holder = jobs.holder("foo")
    assert holder
    assert 200 < jobs.remaining(holder) <= 300
    assert said(call("lock", "foo"))[0] == 75
    assert said(call("lock", "--ttl", "9", "bar"))[0] == 0
    bar = jobs.holder("bar")
    assert bar
    assert jobs.remaining(bar) <= 9


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[microlock]\nttl = 3", "[microlock] has no option ttl"),
        ("[lock]\nettcd = x", "[lock] has no option ettcd"),
        ("[lokc]", "unknown section [lokc]"),
        ("etcd = x", "File contains no section headers."),
    ],
)
def test_a_wrong_file_is_refused(call: Call, tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "microlock.ini"
    file.write_text(text)
    status, _, err = said(call("lock", "--config", str(file), "foo"))
    assert (status, err.count("\n")) == (2, 1)
    assert f"--config {file}: {why}" in err


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `connect` was called with."""
    given: dict[str, Any] = {}

    def connected(endpoints: str, **options: Any) -> Client:
        given.update(options, endpoints=endpoints)
        return connect("memory://")

    monkeypatch.setattr("microlock.cli.connection.connect", connected)
    return given


def test_all_that_connect_takes_is_an_option(call: Call, asked: dict[str, Any]) -> None:
    tls = ("--ca-cert", "ca", "--cert", "crt", "--cert-key", "key", "--server-name", "etcd")
    assert said(call("status", "--etcd", "a,b", *tls, "--timeout", "2"))[0] == 0
    assert asked == {
        "endpoints": "a,b",
        "ca_cert": "ca",
        "cert_cert": "crt",
        "cert_key": "key",
        "server_name": "etcd",
        "user": None,
        "password": None,
        "timeout": 2.0,
    }


def test_a_password_is_of_a_variable_or_a_file_and_of_no_option(
    call: Call, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user, file, config = ("--user", "app"), tmp_path / "password", tmp_path / "ini"
    file.write_text("of a file\n")
    config.write_text("[microlock]\npassword = 100%\n")
    status, _, err = said(call("status", *user))
    assert status == 2
    assert "--user app needs a password" in err
    assert said(call("status", *user, "--password", "secret"))[0] == 2
    assert said(call("status", *user, "--password-file", str(file)))[0] == 0
    assert (asked["user"], asked["password"]) == ("app", "of a file")
    assert said(call("status", *user, "--config", str(config)))[0] == 0
    assert asked["password"] == "100%"
    monkeypatch.setenv("MICROLOCK_PASSWORD", "of a variable")
    assert said(call("status", *user))[0] == 0
    assert asked["password"] == "of a variable"


# What the page on the command line shows.

PAGE = (Path(__file__).parents[2] / "docs/command-line.md").read_text()


@pytest.mark.parametrize("line", sorted({*re.findall(r"(?<![\w/`])microlock [a-z].*", PAGE)}))
def test_what_the_page_shows_can_be_said(line: str) -> None:
    said = re.sub(r"\$\(\w+\)|\"\$\w+\"", "1", line)  # variables of a shell and of make
    name, *arguments = shlex.split(re.split(r"[|)`]", said)[0])[1:]
    program.commands[name].make_context(name, arguments)


def test_the_page_names_all_variables() -> None:
    options = {each for command in program.commands.values() for each in command.params}
    variables = {each.envvar for each in options if each.envvar} - {"MICROLOCK_NODE_ID"}
    assert {name for name in variables if f"`{name}`" not in PAGE} == set()


# What is wrong is one line.


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["run", "foo"], "the command is missing: give it after --"),
        (["run", "--", "true"], "Missing argument 'NAME...'"),
        (["run", "--now", "foo", "--", "true"], "No such option"),
        (["run", "foo", "--shared", "--limit", "2", "--", "true"], "--shared and --limit exclude"),
        (["run", "a", "b", "--shared", "--", "true"], "--shared and several names exclude"),
        (["run", "a", "--wait", "1", "--no-wait", "--", "true"], "--wait and --no-wait exclude"),
        (["--etcd", "memory://", "status"], "--etcd: options go after the command"),
        (["run", "a", "--ttl", "0", "--", "true"], "Invalid value for '--ttl': 0"),
        (["status", "--timeout", "0"], "Invalid value for '--timeout': 0"),
        (["unlock", "a", "1", "--limit", "0"], "Invalid value for '--limit': 0"),
        (["run", "a", "--limit", "b", "--", "true"], "'b' is not a valid integer. ("),
        (["run", "", "--", "true"], "key must not be empty"),
        (["elect", "a", "b", "--", "true"], "unexpected extra argument"),
        (["lokc"], "No such command"),
        (["lock", "foo", "--etcd", "memory://a/b"], "endpoints: 'memory://a/b' is not"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_one_line_and_2(
    call: Call, arguments: list[str], why: str
) -> None:
    status, out, err = said(call(*arguments))
    assert (status, out) == (2, "")
    assert err.startswith("microlock")
    assert err.count("\n") == 1
    assert why in err


NO_NUMBERS = ["-1", "nan", "inf", "1e400", "-inf", "soon", ""]
# What a command needs beside its options.
NEEDS = {"unlock": ("a", "1"), "extend": ("a", "1"), "status": (), "serve": ()}


@pytest.mark.parametrize("name", sorted({*program.commands} - {"etcd"}))  # that has its own
def test_what_is_no_number_is_refused_by_the_name_of_the_option_and_the_value(
    call: Call, name: str
) -> None:
    command = program.commands[name]
    if isinstance(command, ServeCommand):
        command = command.load()
    numbers = [each for each in command.params if isinstance(each.type, Number)]
    options = [each.opts[-1] for each in numbers if isinstance(each, click.Option)]
    assert options
    runs = ("--", "true") if isinstance(command, RunsCommand) else ()
    for option, value in product(options, NO_NUMBERS):
        status, out, err = said(call(name, *NEEDS.get(name, ("a",)), option, value, *runs))
        assert (status, out, err.count("\n")) == (2, "", 1)
        shown = re.escape(value).replace("1e400", "(1e400|inf)")  # as an integer, or a number
        assert re.search(f"Invalid value for .*'{option}'.*: '?{shown}", err), err


def test_what_is_no_token_is_refused_by_its_value(call: Call) -> None:
    assert "Invalid value for 'TOKEN': 'soon'" in said(call("unlock", "a", "soon"))[2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_can_not_be_written_is_one_line() -> None:
    script = "from microlock_main import main; main()"
    command = [sys.executable, "-c", script, "status", "--etcd", "memory://"]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (
        1,
        "microlock: [Errno 28] No space left on device\n",
    )


def test_without_a_command_there_is_help_and_2(call: Call) -> None:
    status, out, err = said(call())
    assert (status, out) == (2, "")
    assert err == call("--help").stdout


def test_where_click_is_missing_the_command_line_says_what_to_install() -> None:
    script = "import sys; sys.modules['click'] = None; from microlock.__main__ import main; main()"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == ("microlock: the command line needs click: pip install 'microlock[cli]'\n")


@pytest.mark.skipif(os.name == "nt", reason="a process there does not end by a signal")
@pytest.mark.parametrize("module", ["microlock", "click", "microlock.cli.program"])
def test_ctrl_c_while_the_command_starts_ends_it_silently(module: str) -> None:
    script = f"""
import os, signal, sys
from importlib.metadata import entry_points

class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
(command,) = entry_points(group="console_scripts", name="microlock")
command.load()()
"""
    ran = subprocess.run([sys.executable, "-c", script, "status"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_after_the_start_is_no_longer_the_end_of_the_process() -> None:
    script = """
import signal
from microlock.cli.program import program
program.main = lambda **_: print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
from microlock_main import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n"


def test_what_serves_is_not_imported_for_other_commands() -> None:
    script = (
        "import sys; from microlock.cli.program import program; "
        "print([each for each in ('fastapi', 'uvicorn', 'asyncio', 'microlock.server') "
        "if each in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_where_the_extra_is_missing_serve_says_what_to_install(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "microlock.service.command", None)
    status, _, err = said(call("serve", "-p", "0"))
    assert status == 1
    assert err.endswith("pip install 'microlock[service]'\n")
    assert err.count("\n") == 1


def test_etcd_takes_the_options_of_the_server(call: Call) -> None:
    assert "--data-dir" in call("etcd", "--help").stdout


def test_etcd_at_a_port_that_is_in_use_says_who_complains(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: EtcdServer) -> None:
        raise EtcdServerError("port 1 is in use")

    monkeypatch.setattr(EtcdServer, "start", start)
    assert said(call("etcd", "--port", "1")) == (1, "", "microlock etcd: port 1 is in use\n")


# watch


def test_watch_goes_on_after_an_interruption_and_ends_with_a_refusal(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched:
        def on(self, name: str, handler: Callable[[LockEvent], None]) -> None:
            if name == events.unlocked:  # the last
                for error in (StoreTimeoutError("slow"), None, StorePermissionError("no")):
                    handler(LockEvent("error" if error else "locked", "foo", error=error))

    monkeypatch.setattr("microlock.cli.watch.chosen", lambda *_, **__: Watched())
    status, out, err = said(call("watch", "foo", "--json"))
    assert (status, json.loads(out)["event"]) == (69, "locked")
    assert err == "microlock: interrupted, trying again: slow\nmicrolock: no\n"


def test_watch_of_an_etcd_that_never_answered_is_69(call: Call) -> None:
    assert said(call("watch", "foo", "--etcd", "localhost:1"))[0] == 69
