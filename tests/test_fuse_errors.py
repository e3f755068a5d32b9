"""The table from cache errors to errno, and that every handler goes through it."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Iterator

import pyfuse3
import pytest

from cache import errors
from fuse.errors import ERRNO, errno_of
from fuse.operations import Operations


def _tree(kind: type[errors.CacheError]) -> Iterator[type[errors.CacheError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == "cache.errors":
            yield from _tree(below)


@pytest.mark.parametrize("kind", sorted(set(_tree(errors.CacheError)), key=lambda k: k.__name__))
def test_every_error_has_a_line_of_its_own(kind: type[errors.CacheError]) -> None:
    assert ERRNO[kind] in errno.errorcode


def test_a_class_that_is_not_in_the_table_answers_as_the_nearest_one_above() -> None:
    class LostInTheMail(errors.StoreFull):
        pass

    assert errno_of(LostInTheMail()) == errno.ENOSPC


def test_every_handler_is_wrapped() -> None:
    for name, handler in inspect.getmembers(Operations, inspect.iscoroutinefunction):
        if name == "poll":
            # Not offered. pyfuse3 answers ENOSYS, and the kernel then says what it says of
            # every regular file: always ready.
            assert handler is pyfuse3.Operations.poll
        elif not name.startswith("_") and name != "forget":  # which swallows all there is
            assert hasattr(handler, "__wrapped__"), name


def test_every_operation_of_pyfuse3_is_offered() -> None:
    for name, inherited in inspect.getmembers(pyfuse3.Operations, inspect.iscoroutinefunction):
        if name != "poll":
            assert getattr(Operations, name) is not inherited, name
