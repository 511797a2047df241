"""`run.py key`: adds, lists, rotates and revokes API keys. A running gateway notices within a second."""

import argparse
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime

from actors.commands.effective_config import UNUSABLE, read
from actors.config.key_secrets import KEY_NAME, parse_expiry
from actors.errors import ConfigError
from actors.folders import keys_file, usage_file
from actors.terminal import complain, printable, say
from proxy.access.configured import configured_keys
from proxy.access.keys import SHOWN, Key, Rights, make_key, new_secret
from proxy.access.store import KeyStore, KeyStoreError
from proxy.usage.ledger_file import record_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=argparse.ArgumentParser
    )
    add = actions.add_parser("add", help="make a key and print its secret, once")
    add.add_argument("name", type=_name, metavar="NAME")
    add.add_argument("--models", nargs="+", default=["*"], metavar="GLOB", help="models it may use")
    add.add_argument("--agents", nargs="+", default=["*"], metavar="GLOB", help="agents it may name")
    add.add_argument("--concurrent", type=_count, metavar="N", help="requests at the same time")
    add.add_argument("--per-minute", type=_count, metavar="N", help="requests in any 60 seconds")
    add.add_argument("--tokens-per-day", type=_count, metavar="N", help="tokens of prompts and answers (UTC)")
    add.add_argument("--weight", type=_weight, default=1.0, metavar="N", help="its share of turns (1)")
    add.add_argument("--expires", type=_expiry, metavar="DATE", help="such as 2027-01-31 (its end, UTC)")
    add.add_argument("--admin", action="store_true", help="it may use /admin")
    actions.add_parser("list", help="list all keys with their rights")
    for action, what in (("rotate", "give a key a new secret and print it"), ("revoke", "delete a key")):
        changed = actions.add_parser(action, help=what)
        changed.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace) -> int:
    """Run the action; return the exit status."""
    store = KeyStore(keys_file())
    actions: dict[str, Callable[[argparse.Namespace, KeyStore], int]] = {
        "add": _add,
        "list": _list,
        "rotate": _rotate,
        "revoke": _revoke,
    }
    try:
        return actions[options.action](options, store)
    except (KeyStoreError, ConfigError) as error:
        complain(str(error))
        return UNUSABLE
    finally:
        store.close()


def _add(options: argparse.Namespace, store: KeyStore) -> int:
    _, config = read(options)
    rights = Rights.of(options, expires=options.expires)
    secret = new_secret()
    if options.name in config.keys or not store.add(make_key(options.name, secret, rights)):
        complain(
            f"there is a key {options.name!r} already; `key rotate {options.name}` gives it a new secret"
        )
        return 1
    _record(options)
    return _show_once(secret)


def _list(options: argparse.Namespace, store: KeyStore) -> int:
    _, config = read(options)
    keys = [*store.all_keys(), *configured_keys(config)]
    if not keys:
        say("There are no keys: requests on this machine need none. `key add NAME` makes one.")
        return 0
    for key in keys:
        say(printable(_described(key)))
    return 0


def _rotate(options: argparse.Namespace, store: KeyStore) -> int:
    secret = new_secret()
    if not store.rotate(options.name, secret, secret[-SHOWN:]):
        return _missing(options)
    _record(options)
    return _show_once(secret)


def _revoke(options: argparse.Namespace, store: KeyStore) -> int:
    if not store.revoke(options.name):
        return _missing(options)
    _record(options)
    say(f"revoked {options.name}")
    return 0


def _record(options: argparse.Namespace) -> None:
    """Record the change in the ledger, if there is one."""
    try:
        record_command(usage_file(), f"key {options.action} {options.name}")
    except (sqlite3.Error, OSError) as error:
        complain(f"the change is made, but {usage_file()} cannot record it: {error}")


def _missing(options: argparse.Namespace) -> int:
    _, config = read(options)
    where = "it is in the configuration file: change it there" if options.name in config.keys else ""
    complain(f"there is no key {options.name!r} in {keys_file()}" + (f"; {where}" if where else ""))
    return 1


def _show_once(secret: str) -> int:
    say(secret)
    complain("this is the only time that the secret is shown")
    return 0


def _described(key: Key) -> str:
    rights = key.rights
    words = [key.name, f"...{key.hint}"]
    if key.configured:
        words.append("in the configuration")
    if rights.admin:
        words.append("admin")
    if rights.models != ("*",):
        words.append("models " + " ".join(rights.models))
    if rights.agents != ("*",):
        words.append("agents " + (" ".join(rights.agents) or "none"))
    limits = (
        (rights.concurrent, "at a time"),
        (rights.per_minute, "per minute"),
        (rights.tokens_per_day, "tokens per day"),
    )
    words += [f"{limit:,} {unit}" for limit, unit in limits if limit is not None]
    if rights.weight != 1.0:
        words.append(f"weight {rights.weight:g}")
    if rights.expires is not None:
        state = "expired" if rights.expires <= time.time() else "expires"
        words.append(f"{state} {datetime.fromtimestamp(rights.expires, UTC):%Y-%m-%d %H:%M} UTC")
    return "  ".join(words)


def _name(text: str) -> str:
    if not KEY_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("a key's name has letters, digits and . _ @ - (64 at most)")
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= 10**15:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return weight


def _expiry(text: str) -> float:
    try:
        return parse_expiry(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
