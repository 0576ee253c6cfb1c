"""The box: text, pictures that are dropped, pasted or picked, and pictures that wait from elsewhere."""

from collections.abc import Iterable
from typing import Any

import streamlit as st

from assistant.errors import ImageError, InputError
from assistant.images import MAX_BYTES, Picture, load_picture
from ui.page.marker_chips import marker_chips
from ui.page.pictures import picture_html
from ui.page.state import COMPOSER, Page, begin, pending, put_back, show_error

TYPES = "png jpg jpeg gif webp avif bmp tif tiff jp2 ico ppm pgm pbm qoi heic heif".split()

MOST = MAX_BYTES // 2**20  # megabytes of a picture


def show_composer(page: Page) -> None:
    """The box at the lower edge; what is sent begins an answer, and the page runs once more."""
    with st.bottom:
        if waiting := pending():
            _waiting(page, waiting)
        if examples := sum(demo.enabled for demo in page.session.demos):
            st.caption(page.say("examples_on", count=examples))
        marker_chips(len(waiting), page.say("insert"))
        if (draft := st.session_state.pop("draft", None)) is not None:
            st.session_state[COMPOSER] = draft
        sent = st.chat_input(
            page.say("ask"),
            key=COMPOSER,
            accept_file="multiple",
            file_type=TYPES,
            max_upload_size=MOST,
            disabled=page.busy,
        )
        st.caption(page.say("composer_help", most=MOST))
    if sent is not None:
        _send(page, sent.text, sent.files)
        st.rerun()


def _waiting(page: Page, waiting: list[Picture]) -> None:
    st.caption(page.say("waiting_pictures"))
    with st.container(horizontal=True, gap="small", key="waiting"):
        for number, picture in enumerate(waiting, start=1):
            with st.container(width="content", gap=None):
                st.html(picture_html(picture, page.say("picture_alt", number=number, name=picture.name), 64))
                st.button(
                    page.say("remove_picture", number=number),
                    key=f"remove-{number}",
                    type="tertiary",
                    on_click=waiting.__delitem__,
                    args=(number - 1,),
                )


def _send(page: Page, text: str, files: Iterable[Any]) -> None:
    """Ask; what is refused is said, and stays in the box."""
    read, refused = read_pictures(files)
    pictures = [*pending(), *read]
    if refused:
        show_error("  \n".join(refused))
        put_back(text, pictures)
        return
    try:
        events = page.session.send(text, pictures)
    except InputError as error:
        show_error(str(error))
        put_back(text, pictures)
        return
    st.session_state.pending = []
    st.session_state.sent = (text, pictures)
    answering = begin(page, events)
    if answering.error and not answering.accepted:
        put_back(text, pictures)


def read_pictures(files: Iterable[Any]) -> tuple[list[Picture], list[str]]:
    """The pictures of uploaded files, and why others are none."""
    read, refused = [], []
    for file in files:
        try:
            read.append(load_picture(file.getvalue(), name=file.name))
        except ImageError as error:
            refused.append(str(error))
    return read, refused
