"""All the tests; the folders mirror the sources."""
