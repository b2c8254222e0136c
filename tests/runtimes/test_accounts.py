from __future__ import annotations

import os
import pwd
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.errors import RefusedError, UnsupportedError
from reconciler.ids import VolumeId
from reconciler.runtimes import processes
from reconciler.runtimes.accounts import Accounts, AccountSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOP = VolumeId("shop.1")
NOBODY = proc.Account(65534, 65534)


@pytest.fixture
def accounts(account_settings: AccountSettings) -> Accounts:
    if os.geteuid() != 0:
        pytest.skip("needs root: create accounts")
    return Accounts(account_settings)


@pytest.mark.root
def test_a_shared_account_is_created_once_without_login_or_home(
    accounts: Accounts, account_settings: AccountSettings
) -> None:
    account = accounts.account("build", SHOP, frozenset())
    entry = pwd.getpwnam(account_settings.build)
    assert account == proc.Account(entry.pw_uid, entry.pw_gid)
    assert (entry.pw_dir, entry.pw_shell) == ("/nonexistent", "/usr/sbin/nologin")
    assert accounts.account("build", VolumeId("other"), frozenset()) == account


@pytest.mark.root
def test_several_reconcilers_may_create_the_same_account_at_once(account_settings: AccountSettings) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: create accounts")
    several = [Accounts(account_settings) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        found = set(pool.map(lambda accounts: accounts.account("clone", SHOP, frozenset()), several))
    assert found == {proc.Account(*pwd.getpwnam(account_settings.clone)[2:4])}


@pytest.mark.root
def test_own_accounts_avoid_taken_ids_and_existing_users() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: own accounts")
    accounts = Accounts(AccountSettings("build", "clone", own=range(NOBODY.uid, NOBODY.uid + 3)))
    assert accounts.account("own", SHOP, {NOBODY.uid + 1}) == proc.Account(NOBODY.uid + 2, NOBODY.uid + 2)


@pytest.mark.root
def test_exhausted_own_accounts_are_refused_with_the_range(
    accounts: Accounts, account_settings: AccountSettings
) -> None:
    own = account_settings.own
    with pytest.raises(RefusedError, match=f"{own.start} to {own.stop - 1}"):
        accounts.account("own", SHOP, set(own))


_FLEETING = """
import ctypes, os, signal, sys, time
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what ends is ours to collect ...
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ... and is collected by the kernel at once
if os.fork():
    sys.exit(sys.stdin.read())
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
print("started", flush=True)
end = time.monotonic() + 30
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
"""


@pytest.mark.root
def test_what_changes_its_number_all_the_time_does_not_get_away(
    accounts: Accounts, account_settings: AccountSettings
) -> None:
    own = proc.Account(account_settings.own[-1], account_settings.own[-1])
    argv = [sys.executable, "-I", "-S", "-c", _FLEETING, str(own.uid)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as fleeting:
        assert fleeting.stdout is not None
        fleeting.stdout.readline()
        accounts.end_all(own)
        seen = {p for _ in range(50) for p in processes.live() if own.uid in processes.user_ids(p.pid)}
        fleeting.kill()
    assert seen == set()


@pytest.mark.root
def test_processes_of_a_user_of_the_host_are_never_ended(accounts: Accounts) -> None:
    with subprocess.Popen(["sleep", "300"], user=NOBODY.uid, group=NOBODY.gid, extra_groups=[], cwd="/") as process:
        accounts.end_all(NOBODY)
        assert process.poll() is None
        process.kill()


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Be an ordinary user for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY.uid)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("ordinary_user")
def test_an_ordinary_user_runs_everything_as_itself_and_has_no_own_accounts(
    account_settings: AccountSettings,
) -> None:
    accounts = Accounts(account_settings)
    assert not accounts.can_switch
    assert accounts.account("build", VolumeId("shop-1"), frozenset()) is None
    assert accounts.account("clone", SHOP, frozenset()) is None
    with pytest.raises(UnsupportedError, match=r"shop\.1 needs an operating-system account of its own.*role superuser"):
        accounts.account("own", SHOP, frozenset())
