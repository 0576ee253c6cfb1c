"""Keeps the newest text in sight, as Streamlit does only for containers of a fixed height."""

from typing import Any

import streamlit as st

# Whoever scrolls is left alone until the next question or answer.
_JS = """
export default function ({ data }) {
  const main = document.querySelector('[data-testid="stMain"]');
  if (!main || main.dataset.followed === data.at) return;
  main.dataset.followed = data.at;
  let left = false;
  const leave = () => { left = true; };
  for (const kind of ["wheel", "touchmove", "keydown", "mousedown"]) main.addEventListener(kind, leave, { once: true });
  const until = Date.now() + 1500;
  const step = setInterval(() => {
    const over = !data.growing && Date.now() > until;
    if (left || over || main.dataset.followed !== data.at) clearInterval(step);
    else main.scrollTop = main.scrollHeight;
  }, 120);
}
"""


def follow(at: str, growing: bool) -> None:
    """Scroll to the end whenever this changes, and go on while something grows there.

    Args:
        at: what stands at the end.
    """
    _component()(key="following", data={"at": at, "growing": growing})


def _component() -> Any:
    return st.components.v2.component("following", js=_JS)
