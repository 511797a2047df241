"""Tests of actors.memory."""
