"""Anthropic's messages: `request` is read from a client, `answer` is written for one."""
