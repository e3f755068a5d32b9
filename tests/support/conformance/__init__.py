"""Foreign suites, unmodified, run against a node of its own: `script/conformance`.

A module for each: `s3` (ceph's s3-tests) and `posix` (pjdfstest, fsx, fsstress). What is here is
imported in the environments of the suites, too, where nothing of Forebay is installed.
"""

from pathlib import Path

ROOT = Path(__file__).parents[3]
LEFT = ROOT / ".conformance"
"""What suites are built into, and what runs leave behind."""
