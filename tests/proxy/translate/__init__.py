"""The translators: requests, streams, whole answers, errors."""
