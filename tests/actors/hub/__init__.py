"""Tests of actors.hub."""
