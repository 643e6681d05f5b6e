"""Drawing: page elements that are sent to the browser only when they changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui
from nicegui.element import Element


def box(classes: str = "", tag: str = "div", **attributes: str) -> Element:
    """A plain element; ``aria_label="…"`` becomes the attribute aria-label."""
    element = ui.element(tag)
    if classes:
        element.classes(classes)
    attrs(element, **attributes)
    return element


def text(content: str = "", classes: str = "") -> ui.label:
    """A piece of text; set it with ``say``."""
    return ui.label(content).classes(classes)


def say(label: ui.label, content: str) -> None:
    """Change a text, if it is another."""
    if label.text != content:
        label.set_text(content)


def attrs(element: Element, **attributes: str) -> None:
    """Set attributes; an underscore stands for a hyphen."""
    new = {name.replace("_", "-"): value for name, value in attributes.items()}
    if any(element.props.get(name) != value for name, value in new.items()):
        element.props.update(new)


def without(element: Element, name: str) -> None:
    """Take an attribute away: what is not known is not told as zero."""
    if name.replace("_", "-") in element.props:
        del element.props[name.replace("_", "-")]
        element.update()


def styles(element: Element, **properties: str) -> None:
    """Set CSS properties; an underscore stands for a hyphen."""
    new = {name.replace("_", "-"): value for name, value in properties.items()}
    if any(element.style.get(name) != value for name, value in new.items()):
        element.style.update(new)


def unstyled(element: Element) -> None:
    """Take all CSS properties away again."""
    if element.style:
        element.style.clear()
        element.update()


def swap(element: Element, on: bool, name: str) -> None:
    """Give an element a class, or take it away."""
    if on != (name in element.classes):
        element.classes(add=name) if on else element.classes(remove=name)


@contextmanager
def card(title: str, name: str, hint: str = "") -> Iterator[Element]:
    """A panel: a region with a heading; ``name`` is its class and places it."""
    with box(f"card {name}", "section", aria_label=title) as section:
        with box("card-head"):
            ui.html(title, tag="h2", sanitize=False)
            if hint:
                text(hint, "hint")
        yield section
