"""A button that copies a text, which Streamlit has for code alone."""

from typing import Any

import streamlit as st

_CSS = """
button { all: unset; cursor: pointer; display: inline-flex; align-items: center; min-height: 2rem; padding: 0 .25rem;
  font-family: var(--st-font); font-size: .875rem; color: var(--st-text-color); }
button:hover { color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); }
"""
_JS = """
export default function ({ data, parentElement }) {
  let button = parentElement.querySelector("button");
  if (!button) { button = document.createElement("button"); button.type = "button"; parentElement.appendChild(button); }
  button.textContent = data.label;
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(data.text); }
    catch {
      const area = document.createElement("textarea");
      area.value = data.text; document.body.appendChild(area); area.select();
      document.execCommand("copy"); area.remove();
    }
    button.textContent = data.done;
    setTimeout(() => { button.textContent = data.label; }, 1500);
  };
}
"""


def copy_button(text: str, label: str, done: str, key: str) -> None:
    """A button that puts a text onto the clipboard, and says so."""
    _component()(key=key, data={"text": text, "label": label, "done": done}, width="content")


def _component() -> Any:
    return st.components.v2.component("copy_button", css=_CSS, js=_JS)
