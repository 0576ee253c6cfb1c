"""The few-shot workbench: examples to add, order, switch off, save and load, and what they change."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import streamlit as st

from assistant.conversation import Demo
from assistant.errors import AssistantError, InputError
from assistant.events import Event
from assistant.images import Picture
from prompts import Message, few_shot, user_message
from ui.page.answering import Answering
from ui.page.composer import MOST, TYPES, read_pictures
from ui.page.example_sets import QUESTION, list_sets, load_set, read_set, save_set
from ui.page.pictures import message_html, picture_html
from ui.page.state import Page, options, show_error
from ui.page.transcript import CURSOR, harmless


@dataclass
class Row:
    """An example as it stands in the table; without an answer it is not used yet."""

    picture: Picture | None = None
    question: str = QUESTION
    answer: str = ""
    enabled: bool = True
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def demo(self) -> Demo:
        """What the conversation keeps."""
        return Demo(self.picture, self.question, self.answer, self.enabled and bool(self.answer.strip()))


def show_workbench(page: Page) -> None:
    """The table, sets, what the model sees, and the comparison."""
    say, rows = page.say, _rows(page)
    st.subheader(say("examples"), anchor=False)
    st.caption(say("examples_help"))
    for number in range(1, len(rows) + 1):
        _show_row(page, rows, number)
    _keep(page, rows)
    with st.container(horizontal=True):
        st.button(say("add_example"), icon=":material/add:", key="add-example", on_click=lambda: rows.append(Row()))
        if rows:
            st.button(say("clear"), icon=":material/delete_sweep:", key="clear-examples", on_click=rows.clear)
    st.caption(say("examples_on", count=sum(demo.enabled for demo in page.session.demos)))
    _sets(page, rows)
    show_prompt(page)
    _compare(page)


def _rows(page: Page) -> list[Row]:
    """The table of this tab, which begins as the conversation's examples."""
    known = st.session_state.get("workbench")
    if known is None or known[0] != page.id:
        made = [Row(demo.picture, demo.question, demo.answer, demo.enabled) for demo in page.session.demos]
        known = st.session_state.workbench = (page.id, made)
    return known[1]


def _show_row(page: Page, rows: list[Row], number: int) -> None:
    say, row = page.say, rows[number - 1]
    with st.container(border=True, key=f"row-{number}"):
        left, right = st.columns([1, 3], vertical_alignment="center")
        with left:
            if row.picture is not None:
                alt = say("picture_alt", number=number, name=row.picture.name)
                st.html(picture_html(row.picture, alt, 110))
            with st.popover(say("picture"), icon=":material/image:", key=f"pick-{row.id}"):
                _pick(page, row)
        with right:
            row.question = st.text_input(say("question"), row.question, key=f"question-{row.id}")
            row.answer = st.text_input(
                say("answer"), row.answer, key=f"answer-{row.id}", placeholder=say("needs_answer")
            )
        with st.container(horizontal=True, vertical_alignment="center"):
            row.enabled = st.toggle(say("enabled", number=number), row.enabled, key=f"on-{row.id}")
            _step(say("up"), ":material/arrow_upward:", f"up-{row.id}", rows, number - 1, -1)
            _step(say("down"), ":material/arrow_downward:", f"down-{row.id}", rows, number - 1, 1)
            st.button(
                say("remove"),
                icon=":material/close:",
                key=f"drop-{row.id}",
                type="tertiary",
                on_click=rows.__delitem__,
                args=(number - 1,),
            )


def _pick(page: Page, row: Row) -> None:
    file = st.file_uploader(page.say("picture"), TYPES, key=f"picture-{row.id}", max_upload_size=MOST)
    if file is None or st.session_state.get(f"taken-{row.id}") == file.file_id:
        return
    st.session_state[f"taken-{row.id}"] = file.file_id
    read, refused = read_pictures([file])
    if refused:
        show_error("  \n".join(refused))
    else:
        row.picture = read[0]
    st.rerun()


def _step(label: str, icon: str, key: str, rows: list[Row], at: int, by: int) -> None:
    def move() -> None:
        rows.insert(at + by, rows.pop(at))

    fits = 0 <= at + by < len(rows)
    st.button(label, icon=icon, key=key, type="tertiary", disabled=not fits, on_click=move if fits else None)


def _keep(page: Page, rows: list[Row]) -> None:
    """Give the table to the conversation; the prompt never holds what does not fit."""
    try:
        page.session.demos = [row.demo() for row in rows]
    except InputError as error:
        st.error(str(error), icon=":material/error:")


# Sets


def _sets(page: Page, rows: list[Row]) -> None:
    say = page.say
    with st.expander(say("add_pictures"), icon=":material/add_photo_alternate:"):
        _upload(page, rows, say("add_pictures"), "pictures", TYPES, True)
    with st.expander(say("load_set"), icon=":material/folder_open:"):
        st.caption(say("load_how"))
        _upload(page, rows, say("load_folder"), "folder", None, "directory")
        _upload(page, rows, say("load_files"), "files", None, True)
    with st.expander(say("saved_sets"), icon=":material/bookmarks:"):
        with st.form("save-set", border=False):
            name = st.text_input(say("set_name"), key="set-name")
            if st.form_submit_button(say("save_set")):
                try:
                    st.success(say("set_saved", name=save_set(name, [row.demo() for row in rows])))
                except AssistantError as error:
                    st.error(str(error))
        for known in list_sets():
            st.button(f"{say('use_set')}: {known}", key=f"use-{known}", on_click=_use, args=(rows, known))


def _use(rows: list[Row], name: str) -> None:
    try:
        _replace(rows, load_set(name))
    except (AssistantError, OSError) as error:
        show_error(str(error))


def _upload(page: Page, rows: list[Row], label: str, key: str, types: Sequence[str] | None, several: object) -> None:
    turn = st.session_state.setdefault("set-uploads", 0)
    files = st.file_uploader(label, types, accept_multiple_files=several, key=f"{key}-{turn}")  # type: ignore[call-overload]
    if not files:
        return
    st.session_state["set-uploads"] += 1  # an empty uploader next time
    if key == "pictures":
        read, refused = read_pictures(files)
        rows += [Row(picture) for picture in read]
        if refused:
            show_error("  \n".join(refused))
    else:
        try:
            _replace(rows, read_set({file.name: file.getvalue() for file in files}))
        except InputError as error:
            show_error(str(error))
    st.rerun()


def _replace(rows: list[Row], demos: Sequence[Demo]) -> None:
    rows[:] = [Row(demo.picture, demo.question, demo.answer, demo.enabled) for demo in demos]


# What the model sees


def show_prompt(page: Page) -> None:
    """The messages that the model would read, letter for letter, with their pictures."""
    say = page.say
    # Not made before somebody looks: counting tokens takes a while in a long conversation.
    box = st.expander(say("sees"), icon=":material/visibility:", key="sees", on_change="rerun")
    if not box.open:
        return
    with box:
        try:
            messages = page.session.prompt()
        except InputError as error:
            st.error(str(error))
            return
        if not messages:
            st.caption(say("empty_prompt"))
            return
        st.caption(say("sees_tokens", tokens=page.session.model.count(messages)))
        alt = say("picture_alt", number="{number}", name="{name}")
        for message in messages:
            st.html(f"<strong>{say(f'role_{message.role}')}</strong>" + message_html(message, alt, 64))


# Side by side


def _compare(page: Page) -> None:
    say = page.say
    with st.expander(say("compare"), icon=":material/compare_arrows:", key="compare"):
        st.caption(say("compare_help"))
        with st.form("compare-form", border=False):
            question = st.text_input(say("compare_question"), QUESTION, key="compare-question")
            files = st.file_uploader(
                say("compare_pictures"), TYPES, accept_multiple_files=True, key="compare-files", max_upload_size=MOST
            )
            asked = st.form_submit_button(say("compare_run"), type="primary")
        if asked:
            read, refused = read_pictures(files)
            if refused:
                st.error("  \n".join(refused))
                return
            st.session_state.compared = _both(page, question, read)
        both: tuple[Answering, Answering] | None = st.session_state.get("compared")
        if both is None:
            return
        places = []
        for column, title in zip(st.columns(2), ("with_examples", "without_examples"), strict=True):
            with column:
                st.markdown(f"**{say(title)}**")
                places.append(st.empty())
        for place in places:
            place.markdown(CURSOR)
        for place, answering in zip(places, both, strict=True):
            while not answering.wait(0.08):
                place.markdown(harmless(answering.text) + CURSOR)
            place.error(answering.error) if answering.error else place.markdown(harmless(answering.text))


def _both(page: Page, question: str, pictures: list[Picture]) -> tuple[Answering, Answering] | None:
    """The answers with the examples and without them, both on their way."""
    model, session, chosen = page.session.model, page.session, options()
    try:
        asked = user_message(question, pictures)
    except InputError as error:
        st.error(str(error))
        return None
    shown = [(demo.picture, demo.question, demo.answer) for demo in session.demos if demo.enabled]

    def answer(messages: list[Message]) -> Answering:
        return Answering(_later(lambda: model.reply(messages, chosen)))

    return answer(few_shot(shown, asked, system=session.system)), answer(few_shot([], asked, system=session.system))


def _later(make: Callable[[], Iterator[Event]]) -> Iterator[Event]:
    """Events of a reply that is asked for on the thread that reads it."""
    yield from make()
