"""Tests of the agents, and of their framework."""
