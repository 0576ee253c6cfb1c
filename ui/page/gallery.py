"""Questions to try, with bundled pictures, shown while a conversation is empty."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image, ImageDraw

import assistant
from assistant.conversation import Demo
from assistant.images import Picture, load_picture
from ui.page.pictures import picture_html
from ui.page.state import Page, begin

PANDA = Path(assistant.__file__).parent / "assets" / "demo.jpg"


@dataclass(frozen=True)
class Sample:
    """A question to try.

    Attributes:
        key: of its title in the texts.
    """

    key: str
    question: str
    pictures: tuple[Picture, ...] = ()
    demos: tuple[Demo, ...] = ()


@st.cache_resource(show_spinner=False)
def samples() -> list[Sample]:
    """All of them."""
    panda = load_picture(PANDA, name="panda")
    colour = "What colour is it?"
    demos = (
        Demo(_drawn("blue square", "rectangle", "blue"), colour, '{"colour": "blue"}'),
        Demo(_drawn("green circle", "ellipse", "green"), colour, '{"colour": "green"}'),
    )
    return [
        Sample("gallery_panda", "What is in the picture?", (panda,)),
        Sample("gallery_scene", "Where is the red circle?", (_drawn("red circle", "ellipse", "red", (60, 60)),)),
        Sample("gallery_format", colour, (_drawn("yellow square", "rectangle", "yellow"),), demos),
        Sample("gallery_text", "Why is the sky blue? Answer in one sentence."),
    ]


def _drawn(name: str, kind: str, colour: str, at: tuple[int, int] = (128, 128)) -> Picture:
    image = Image.new("RGB", (256, 256), "gainsboro")
    box = [at[0] - 44, at[1] - 44, at[0] + 44, at[1] + 44]
    getattr(ImageDraw.Draw(image), kind)(box, fill=colour)
    return Picture(image, name)


def show_gallery(page: Page) -> None:
    """The samples as cards; pressing one asks it."""
    st.subheader(page.say("gallery"), anchor=False)
    columns = st.columns(2)
    for place, sample in enumerate(samples()):
        with columns[place % 2].container(border=True, key=f"sample-{sample.key}"):
            shown = [*(demo.picture for demo in sample.demos if demo.picture), *sample.pictures]
            if shown:
                st.html("".join(picture_html(picture, picture.name, 72) for picture in shown))
            st.button(page.say(sample.key), key=sample.key, help=sample.question, on_click=_ask, args=(page, sample))


def _ask(page: Page, sample: Sample) -> None:
    if sample.demos:
        page.session.demos = sample.demos
        st.session_state.pop("workbench", None)
    begin(page, page.session.send(sample.question, sample.pictures))
