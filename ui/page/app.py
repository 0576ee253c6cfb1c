"""The page: what Streamlit runs from top to bottom for every tab and after every touch."""

import streamlit as st

from ui.page.composer import show_composer
from ui.page.gallery import show_gallery
from ui.page.loading import loading
from ui.page.sidebar import (
    choose_language,
    choose_model,
    open_imported,
    show_conversations,
    show_head,
    show_loading,
    show_parameters,
)
from ui.page.state import CHAT, Page, Server, open_session, remember_address, server
from ui.page.transcript import show_transcript
from ui.page.workbench import show_prompt, show_workbench

STYLE = """
<style>
.block-container, [data-testid="stBottomBlockContainer"] { max-width: 52rem; }
.block-container { padding-top: 3.5rem; }
[data-testid="stBottomBlockContainer"] { padding-top: .5rem; padding-bottom: .75rem; }
[data-testid="stSidebarUserContent"] h1 { font-size: 1.5rem; padding-bottom: 0; }
[data-testid="stSidebarUserContent"] button p { text-align: left; }
@media (max-width: 640px) { .block-container { padding: 4.25rem .75rem 1rem; } }
</style>
"""


def main() -> None:
    """One run."""
    st.set_page_config("Flamingo Assistant", ":material/local_fire_department:", "centered")
    st.html(STYLE)
    open_imported()
    say = choose_language()
    shared = server()
    with st.sidebar:
        show_head(say)
    _notices(shared)
    # The list waits for the conversation, whose title may be new; its place does not.
    listed, settings = st.sidebar.container(), st.sidebar.container()
    with settings:
        name = choose_model(say)
    if not loading(name).wait(0):
        with listed:
            show_conversations(shared, say, st.query_params.get(CHAT))
    show_loading(name, say)
    model = loading(name).model
    assert model is not None  # show_loading does not return without one
    page = Page(shared, open_session(shared, model, say), say)
    with settings:
        show_parameters(page)
    remember_address(page)
    with listed:
        show_conversations(shared, say, page.id)
    _main(page)


def _main(page: Page) -> None:
    say = page.say
    st.session_state.setdefault("view", "chat")
    view = st.segmented_control(
        say("view"),
        ["chat", "examples"],
        format_func=lambda key: say(f"view_{key}"),
        key="view",
        required=True,
        label_visibility="collapsed",
    )
    with st.bottom:
        _errors()
    if view == "examples":
        show_workbench(page)
        remember_address(page)
        return
    show_composer(page)
    if not page.session.turns and not page.busy:
        show_gallery(page)
    show_transcript(page)
    if page.session.turns or page.session.demos:
        show_prompt(page)


def _notices(shared: Server) -> None:
    """What the store has to say, such as that a damaged database was moved aside."""
    for notice in shared.store.notices:
        st.warning(notice, icon=":material/warning:")


def _errors() -> None:
    """One box with everything that went wrong since it was last shown, where it is in sight."""
    if errors := st.session_state.pop("errors", None):
        st.error("  \n".join(errors), icon=":material/error:")


if __name__ == "__main__":
    main()
