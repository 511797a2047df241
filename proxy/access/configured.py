"""The keys of the configuration."""

from actors.config.key_secrets import parse_expiry, read_secret
from actors.config.schema import Config
from actors.errors import ConfigError
from proxy.access.keys import Key, Rights, make_key


def configured_keys(config: Config) -> list[Key]:
    """Make the keys of the configuration.

    Raises `ConfigError` if a secret's file cannot be read, or if two keys have the same secret.
    """
    keys: list[Key] = []
    owners: dict[bytes, str] = {}
    for name, settings in config.keys.items():
        try:
            secret = read_secret(settings)
        except ValueError as error:
            raise ConfigError(f"keys.{name}: {error}") from None
        expires = None if settings.expires is None else parse_expiry(settings.expires)
        rights = Rights.of(settings, expires=expires)
        key = make_key(name, secret, rights, configured=True)
        if (owner := owners.setdefault(key.digest, name)) != name:
            raise ConfigError(f"keys.{name}: its secret is also that of key {owner!r}; each needs its own")
        keys.append(key)
    return keys
