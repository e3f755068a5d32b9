"""Text with wildcards and policy variables, as Resource and string conditions have it.

    *       any characters, also none; also / and :
    ?       any one character
    ${key}  the request's value for a condition key; ${key, 'default'} where it may have none
    ${*} ${?} ${$}  these characters themselves

Variables are only known in policies of Version 2012-10-17; in older ones `${` is text. What a
variable stands for is text, too: a `*` in it is no wildcard. Matching takes time in proportion to
the product of the lengths, whatever the pattern: no regular expression that could explode.

Pure; callable from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Context = Mapping[str, Sequence[str]]
"""Values of a request by condition key in lower case. A key without a value is not in it."""

Piece = str | None
"""Literal text, or None for any one character."""

Segment = tuple[Piece, ...]
"""What stands between two stars."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_DEFAULT = re.compile(r"\s*([^,\s]+)\s*,\s*'([^']*)'\s*")
_LITERALS = frozenset("*?$")


class MalformedVariable(ValueError):
    """`${` without an end, or nothing in it."""


@dataclass(frozen=True, slots=True)
class Variable:
    key: str  # in lower case
    default: str | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Segments between stars: one segment is a pattern without a star."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """Of a pattern without wildcards: what it matches."""
        (segment,) = self.segments
        return "".join(piece for piece in segment if piece is not None)

    def matches(self, text: str) -> bool:
        first, *middle = self.segments
        start = _match_at(first, text, 0)
        if start is None:
            return False
        if not middle:
            return start == len(text)
        last = middle.pop()
        for segment in middle:
            # The leftmost place is as good as any: what follows can only gain by it.
            found = _find(segment, text, start)
            if found is None:
                return False
            start = found
        stop = len(text) - _length(last)
        return stop >= start and _match_at(last, text, stop) == len(text)


@dataclass(frozen=True, slots=True)
class Template:
    """A pattern whose variables have no values yet."""

    parts: tuple[tuple[str, bool] | Variable, ...]
    """Text with whether its stars and question marks are wildcards, or a variable."""
    fixed: Pattern | None
    """The pattern itself, if there are no variables."""

    def pattern(self, context: Context) -> Pattern | None:
        """With values in place; None if a variable has none: then it matches nothing."""
        if self.fixed is not None:
            return self.fixed
        filled: list[tuple[str, bool]] = []
        for part in self.parts:
            if isinstance(part, Variable):
                values = context.get(part.key, ())
                # A key with several values cannot stand for one.
                value = values[0] if len(values) == 1 else part.default
                if value is None:
                    return None
                filled.append((value, False))
            else:
                filled.append(part)
        return compile_parts(filled)

    def matches(self, text: str, context: Context) -> bool:
        pattern = self.pattern(context)
        return pattern is not None and pattern.matches(text)

    def may_match_below(self, prefix: str) -> bool:
        """Whether any text that begins with prefix can match, whatever the variables are."""
        tokens = self._tokens()
        alive = _after_stars({0}, tokens)
        for character in prefix:
            stepped = set()
            for state in alive:
                if state < len(tokens):
                    token = tokens[state]
                    if token == _STAR:
                        stepped.add(state)
                    elif token in (_ANY, character):
                        stepped.add(state + 1)
            alive = _after_stars(stepped, tokens)
        return bool(alive)

    def _tokens(self) -> list[str]:
        """Characters, with names for the wildcards; a variable can be anything, as a star."""
        tokens: list[str] = []
        for part in self.parts:
            if isinstance(part, Variable):
                tokens.append(_STAR)
                continue
            text, wild = part
            tokens += [_WILD.get(c, c) for c in text] if wild else list(text)
        return tokens


_STAR, _ANY = "any text", "any character"
_WILD = {"*": _STAR, "?": _ANY}


def _after_stars(states: set[int], tokens: Sequence[str]) -> set[int]:
    """The states with those that can be reached by a star that stands for nothing."""
    found = set(states)
    for state in states:
        following = state
        while following < len(tokens) and tokens[following] == _STAR:
            following += 1
            found.add(following)
    return found


def template(text: str, *, variables: bool, wildcards: bool = True) -> Template:
    """Read a pattern. MalformedVariable.

    variables: the policy's version knows them. wildcards: `*` and `?` are ones, and not text."""
    parts: list[tuple[str, bool] | Variable] = []
    position = 0
    for found in _VARIABLE.finditer(text) if variables else ():
        parts.append((_checked(text[position : found.start()], variables), wildcards))
        parts.append(_variable(found.group(1)))
        position = found.end()
    parts.append((_checked(text[position:], variables), wildcards))
    given = tuple(part for part in parts if isinstance(part, Variable) or part[0])
    texts = [part for part in given if not isinstance(part, Variable)]
    fixed = compile_parts(texts) if len(texts) == len(given) else None
    return Template(given, fixed)


def compile_parts(parts: Sequence[tuple[str, bool]]) -> Pattern:
    segments: list[list[Piece]] = [[""]]
    for text, wild in parts:
        if not wild:
            _append(segments[-1], text)
            continue
        for number, between in enumerate(text.split("*")):
            if number:
                segments.append([""])
            for index, literal in enumerate(between.split("?")):
                if index:
                    segments[-1].append(None)
                _append(segments[-1], literal)
    return Pattern(tuple(tuple(p for p in pieces if p != "") for pieces in segments))


def _append(pieces: list[Piece], literal: str) -> None:
    last = pieces[-1]
    if last is None:
        pieces.append(literal)
    else:
        pieces[-1] = last + literal


def _variable(inside: str) -> tuple[str, bool] | Variable:
    if inside in _LITERALS:
        return inside, False
    with_default = _DEFAULT.fullmatch(inside)
    if with_default is not None:
        return Variable(with_default.group(1).lower(), with_default.group(2))
    key = inside.strip().lower()
    if not key or "," in key or "$" in key:
        raise MalformedVariable(inside)
    return Variable(key, None)


def _checked(text: str, variables: bool) -> str:
    if variables and "${" in text:
        raise MalformedVariable(text)
    return text


def _length(segment: Segment) -> int:
    return sum(1 if piece is None else len(piece) for piece in segment)


def _match_at(segment: Segment, text: str, start: int) -> int | None:
    """Where the segment ends if it is in the text just there."""
    for piece in segment:
        if piece is None:
            if start >= len(text):
                return None
            start += 1
        else:
            if not text.startswith(piece, start):
                return None
            start += len(piece)
    return start


def _find(segment: Segment, text: str, start: int) -> int | None:
    """Where the segment ends at its first place in the text from start on."""
    if not segment:
        return start
    first = segment[0]
    while True:
        if first is not None:
            start = text.find(first, start)
            if start < 0:
                return None
        end = _match_at(segment, text, start)
        if end is not None:
            return end
        start += 1
        if start > len(text):
            return None
