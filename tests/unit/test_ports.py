"""Free ports: nobody is given what another one was given."""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE, Popen, check_output

import pytest

from microlock.server import HOST, EtcdServerError, _ports, free_ports

TAKES = """
import sys
from microlock.server import free_ports
print(*free_ports(40), flush=True)
sys.stdin.read()
"""

FORKS = """
import os
from microlock.server import free_ports
free_ports(1)
child = os.fork()
os.write(1, (" ".join(map(str, free_ports(40))) + "\\n").encode())
if child:
    os.waitpid(child, 0)
"""


def test_processes_that_run_at_once_are_given_different_ports() -> None:
    processes = [
        Popen([sys.executable, "-c", TAKES], stdin=PIPE, stdout=PIPE, text=True) for _ in range(4)
    ]
    given = free_ports(40)
    for process in processes:
        assert process.stdout
        given += map(int, process.stdout.readline().split())
    for process in processes:
        process.communicate()
    assert len(set(given)) == len(given) == 200


def test_a_child_that_was_forked_is_given_other_ports_than_its_parent() -> None:
    printed = check_output([sys.executable, "-c", FORKS], text=True)
    given = [int(port) for port in printed.split()]
    assert len(set(given)) == len(given) == 80


def test_threads_are_given_different_ports() -> None:
    with ThreadPoolExecutor(4) as pool:
        given = [port for ports in pool.map(free_ports, [5] * 4) for port in ports]
    assert len(set(given)) == 20


def test_a_port_that_is_in_use_is_not_given() -> None:
    taken = free_ports(3)
    sockets = [socket.create_server((HOST, port)) for port in taken]
    given = free_ports(60)
    for each in sockets:
        each.close()
    assert len(given) == 60
    assert not set(given) & set(taken)


def test_a_port_that_was_given_is_not_given_again() -> None:
    given = [port for _ in range(40) for port in free_ports(3)]
    assert len(set(given)) == 120


def test_when_a_process_has_its_share_the_oldest_are_given_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free_ports(30)
    monkeypatch.setattr(_ports, "_MOST", 0)
    free_ports(len(_ports._new))
    oldest = list(_ports._given)[:30]
    again = free_ports(20)
    assert set(again) <= set(oldest)
    assert not set(again) & set(free_ports(3))


def test_when_there_are_no_more_ports_that_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    free_ports(1)
    monkeypatch.setattr(_ports, "_LAST", _ports._FIRST)
    with pytest.raises(EtcdServerError, match="no free ports"):
        free_ports(10_000)
