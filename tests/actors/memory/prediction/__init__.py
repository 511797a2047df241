"""Tests of actors.memory.prediction."""
