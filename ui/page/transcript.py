"""What was said: turns with their pictures, what can be done with each, and the answer that grows."""

import re
from collections.abc import Callable

import streamlit as st

from assistant.conversation import Turn
from prompts import with_markers
from ui.page.copy_button import copy_button
from ui.page.following import follow
from ui.page.pictures import message_html
from ui.page.state import Page, attempt, begin, put_back

CURSOR = "▌"
_EVERY = 0.08  # seconds between two looks at a growing answer


def show_transcript(page: Page) -> None:
    """The whole conversation; returns when no answer is being written, unless a person does something before."""
    turns = page.session.turns
    if page.busy and turns and turns[-1].message.role == "assistant":
        turns = turns[:-1]  # the one that grows, or that another one will stand beside
    last_answer = next((turn.id for turn in reversed(turns) if turn.message.role == "assistant"), None)
    last_question = next((turn.id for turn in reversed(turns) if turn.message.role == "user"), None)
    for turn in turns:
        if turn.message.role == "user":
            _question(page, turn, turn.id == last_question)
        else:
            _answer(page, turn, turn.id == last_answer and turn is turns[-1])
    if turns:
        follow(f"{turns[-1].id} {page.busy}", page.busy)
    if page.busy:
        _growing(page)
    elif (answering := page.answering) is not None:
        for notice in answering.notices:
            st.info(notice, icon=":material/info:")
        if answering.error:
            st.error(answering.error, icon=":material/error:")


def _question(page: Page, turn: Turn, last: bool) -> None:
    with st.chat_message("user", avatar=":material/person:"):
        if st.session_state.get("editing") == turn.id:
            _editor(page, turn)
            return
        st.html(message_html(turn.message, _alt(page)))
        with st.container(horizontal=True, gap="small", key=f"actions-{turn.id}"):
            _versions(page, turn)
            _action(page, "edit", ":material/edit:", turn.id, lambda: st.session_state.update(editing=turn.id))
            if last:
                _action(page, "undo", ":material/undo:", turn.id, lambda: _undo(page))


def _editor(page: Page, turn: Turn) -> None:
    """The text of a question, to be sent once more."""
    with st.form(f"edit-{turn.id}", border=False):
        if turn.message.images:
            st.html(message_html(turn.message, _alt(page), 80))
        text = st.text_area(page.say("edit_text"), with_markers(turn.message), key=f"edit-text-{turn.id}")
        with st.container(horizontal=True):
            send = st.form_submit_button(page.say("save"), type="primary")
            leave = st.form_submit_button(page.say("cancel"))
    if send:
        attempt(lambda: begin(page, page.session.edit(turn.id, text)))
    if send or leave:
        del st.session_state.editing
        st.rerun()


def _answer(page: Page, turn: Turn, last: bool) -> None:
    with st.chat_message("assistant", avatar=":material/local_fire_department:"):
        st.markdown(harmless(turn.message.text) or f"*{page.say('empty_answer')}*")
        if figures := _figures(page, turn):
            st.caption(figures)
        with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"actions-{turn.id}"):
            _versions(page, turn)
            copy_button(turn.message.text, page.say("copy"), page.say("copied"), f"copy-{turn.id}")
            if last:
                _action(page, "regenerate", ":material/refresh:", turn.id, lambda: _regenerate(page))
            _thumbs(page, turn)
        # Where it looked: the heat map over the pictures belongs here, under the answer that it explains.


def _thumbs(page: Page, turn: Turn) -> None:
    key = f"thumbs-{turn.id}"
    st.session_state.setdefault(key, {"up": 1, "down": 0, None: None}[turn.feedback])

    def rate() -> None:
        chosen = st.session_state[key]
        attempt(page.session.rate, turn.id, None if chosen is None else ("down", "up")[chosen])

    st.feedback("thumbs", key=key, on_change=rate)


def _versions(page: Page, turn: Turn) -> None:
    """Steps between a turn and those that stand in its place in other branches."""
    versions = [other.id for other in page.session.conversation.siblings(turn.id)]
    if len(versions) < 2:
        return
    at = versions.index(turn.id)

    def step(key: str, icon: str, to: int) -> None:
        known = 0 <= to < len(versions)
        st.button(
            page.say(key),
            icon=icon,
            key=f"{key}-{turn.id}",
            type="tertiary",
            disabled=page.busy or not known,
            on_click=(lambda: attempt(page.session.switch, versions[to])) if known else None,
        )

    step("previous", ":material/chevron_left:", at - 1)
    st.caption(page.say("version", at=at + 1, all=len(versions)), width="content")
    step("next", ":material/chevron_right:", at + 1)


def _action(page: Page, key: str, icon: str, turn_id: str, act: Callable[[], None]) -> None:
    st.button(page.say(key), icon=icon, key=f"{key}-{turn_id}", type="tertiary", disabled=page.busy, on_click=act)


def _regenerate(page: Page) -> None:
    attempt(lambda: begin(page, page.session.regenerate()))


def _undo(page: Page) -> None:
    if (question := attempt(page.session.undo)) is None:
        return
    page.server.answers.pop(page.id, None)
    put_back(with_markers(question.message), list(question.message.images))


def _growing(page: Page) -> None:
    """The answer as it is written, then the page once more."""
    answering = page.answering
    assert answering is not None  # it is being written
    with st.chat_message("assistant", avatar=":material/local_fire_department:"):
        place = st.empty()
        st.button(
            page.say("stop"), icon=":material/stop_circle:", key="stop", type="secondary", on_click=page.session.stop
        )
        shown = None
        while not answering.wait(_EVERY):
            if answering.text != shown:
                shown = answering.text
                place.markdown(harmless(shown) + CURSOR if shown else f"*{page.say('reading')}* {CURSOR}")
    if answering.error and not answering.accepted and (draft := st.session_state.get("sent")):
        put_back(*draft)
    st.rerun()


def harmless(text: str) -> str:
    """Markdown of an answer without formulas and without pictures from elsewhere."""
    return re.sub(r"!\[", r"!\\[", text.replace("$", r"\$"))


def _figures(page: Page, turn: Turn) -> str:
    """Tokens and speed of an answer, and why it ended where it did not end by itself."""
    parts = []
    if turn.usage is not None and "total" in turn.seconds:
        first = turn.seconds.get("first_token", turn.seconds["total"])
        writing = max(turn.seconds["total"] - first, 1e-6)
        tokens = turn.usage.completion_tokens
        speed = (tokens - 1) / writing if tokens > 1 else tokens / max(turn.seconds["total"], 1e-6)
        parts.append(
            page.say(
                "figures",
                tokens=tokens,
                speed=speed,
                first=first,
                cached=turn.usage.cached_tokens,
                prompt=turn.usage.prompt_tokens,
            )
        )
    if turn.finish_reason in ("length", "cancelled", "time", "error"):
        parts.append(page.say(f"ended_{turn.finish_reason}"))
    return " · ".join(parts)


def _alt(page: Page) -> str:
    return page.say("picture_alt", number="{number}", name="{name}")
