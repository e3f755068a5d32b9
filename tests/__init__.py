"""Tests, flat and named by layer: test_<layer>_<topic>.py. Helpers live in tests/support/."""
