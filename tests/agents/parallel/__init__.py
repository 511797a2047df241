"""Tests of the agent parallel."""
