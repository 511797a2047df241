"""Tests of actors.docker."""
