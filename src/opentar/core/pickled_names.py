"""Where in a pickle a class or function is named: followed step by step without making anything of it."""

from __future__ import annotations

import pickletools
from collections import deque
from collections.abc import Iterator
from typing import Any

_MARK = object()
_DICTS = {"SETITEM", "SETITEMS", "DICT"}
_MOST_STEPS = 2_000_000
"""Opcodes that are followed; a pickle of a published file has some ten thousand."""


class _Named:
    """A class or function that a pickle names."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Node:
    """Anything with content: a list, a dict, an object; each entry has a key or None."""

    def __init__(self, entries: list[tuple[Any, Any]]) -> None:
        self.entries = entries


def path_to(content: bytes, name: str) -> str:
    """The keys that lead to the first use of `name` ("module.name"), joined by dots; empty where it cannot be told."""
    try:
        root = _followed(content)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError):
        return ""
    for keys, node in _walk(root):
        if isinstance(node, _Named) and node.name == name:
            return ".".join(keys)
    return ""


def _walk(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every node with the keys that lead to it, the outer ones first; each once."""
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), root)])
    while waiting:
        keys, node = waiting.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield keys, node
        if isinstance(node, _Node):
            waiting += [((*keys, key) if isinstance(key, str) else keys, value) for key, value in node.entries]


def _followed(content: bytes) -> Any:
    """What the pickle would build, with nodes in the place of everything that has content."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if step > _MOST_STEPS:
            raise ValueError("too long to follow")
        if name == "STOP":
            return stack.pop()
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[_number(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[_number(argument)])
        elif name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            _name(stack, name, argument)
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _DICTS or name in ("APPEND", "APPENDS", "ADDITEMS", "BUILD"):
            _fill(stack, name)
        else:
            _any(stack, opcode, argument)
    raise ValueError("no end")


def _number(argument: Any) -> int:
    return int(argument)


def _name(stack: list[Any], opcode: str, argument: Any) -> None:
    if opcode == "STACK_GLOBAL":
        last, first = stack.pop(), stack.pop()
        argument = f"{first} {last}"
    named = _Named(str(argument).replace(" ", ".", 1).removeprefix("__builtin__.").removeprefix("builtins."))
    stack.append(named if opcode != "INST" else _Node([(None, named), *((None, one) for one in _to_mark(stack))]))


def _fill(stack: list[Any], opcode: str) -> None:
    """Put what lies above into the dict, list or object below it."""
    many = opcode in ("SETITEMS", "APPENDS", "ADDITEMS", "DICT")
    values = _to_mark(stack) if many else [stack.pop() for _ in range(2 if opcode == "SETITEM" else 1)][::-1]
    if opcode == "DICT":
        stack.append(_Node([]))
    target = stack[-1]
    if not isinstance(target, _Node):
        return
    pairs = opcode in _DICTS
    target.entries += list(zip(values[::2], values[1::2], strict=True)) if pairs else [(None, one) for one in values]


def _any(stack: list[Any], opcode: pickletools.OpcodeInfo, argument: Any) -> None:
    """Every other opcode takes what it says from the stack and puts one thing there."""
    taken: list[Any] = []
    before = opcode.stack_before
    if pickletools.markobject in before:
        taken = _to_mark(stack)
    elif before:
        taken = [stack.pop() for _ in before][::-1]
    if not opcode.stack_after:
        return
    if not before and isinstance(argument, str):
        stack.append(argument)
    else:
        stack.append(_Node([(None, one) for one in taken]))


def _to_mark(stack: list[Any]) -> list[Any]:
    taken = []
    while (top := stack.pop()) is not _MARK:
        taken.append(top)
    return taken[::-1]
