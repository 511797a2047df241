"""Tests of the agent vram."""
