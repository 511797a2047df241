"""Tests of the agent cache."""
