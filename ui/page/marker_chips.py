"""Chips above the box that put the marker of a picture where the cursor stands, also of pictures not yet sent."""

from typing import Any

import streamlit as st

_CSS = """
.chips { display: flex; flex-wrap: wrap; gap: .35rem; align-items: center; font-family: var(--st-font);
  font-size: .8rem; color: var(--st-text-color); }
.chips[hidden] { display: none; }
button { all: unset; cursor: pointer; padding: .1rem .6rem; border: 1px solid var(--st-border-color);
  border-radius: 1rem; background: var(--st-secondary-background-color); }
button:hover { border-color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); }
"""
# The box tells nobody which files hang on it before they are sent, so the chips count them where they are drawn.
_JS = """
export default function ({ data, parentElement }) {
  let row = parentElement.querySelector(".chips");
  if (!row) { row = document.createElement("div"); row.className = "chips"; parentElement.appendChild(row); }
  const box = () => document.querySelector('[data-testid="stChatInput"]');
  const insert = (marker) => {
    const area = box() && box().querySelector("textarea");
    if (!area) return;
    const from = area.selectionStart, to = area.selectionEnd;
    const text = area.value.slice(0, from) + marker + " " + area.value.slice(to);
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(area, text);
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.focus();
    setTimeout(() => area.setSelectionRange(from + marker.length + 1, from + marker.length + 1), 0);
  };
  let drawn = -1;
  const draw = () => {
    const files = box() ? box().querySelectorAll('[data-testid="stFileChip"]').length : 0;
    const count = data.waiting + files;
    if (count === drawn) return;
    drawn = count;
    row.replaceChildren();
    row.hidden = count === 0;
    for (let number = 1; number <= count; number++) {
      const chip = document.createElement("button");
      const marker = "[img" + number + "]";
      chip.type = "button"; chip.textContent = marker;
      chip.setAttribute("aria-label", data.label + " " + marker);
      chip.onmousedown = (event) => event.preventDefault();
      chip.onclick = () => insert(marker);
      row.appendChild(chip);
    }
  };
  draw();
  const watch = setInterval(draw, 300);
  return () => clearInterval(watch);
}
"""


def marker_chips(waiting: int, label: str) -> None:
    """One chip for each picture.

    Args:
        waiting: pictures that stand before those in the box.
        label: what a chip does, for screen readers.
    """
    _component()(key="chips", data={"waiting": waiting, "label": label})


def _component() -> Any:
    return st.components.v2.component("marker_chips", css=_CSS, js=_JS)
