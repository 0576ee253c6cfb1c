"""The side of the page: language, conversations, the model and how it answers."""

import tempfile
from datetime import datetime
from functools import partial
from pathlib import Path

import streamlit as st

from assistant.errors import AssistantError, InputError
from assistant.options import Options, make_options
from ui.page.loading import first_model, loading
from ui.page.state import CHAT, Page, Server, show_conversation, show_error
from ui.page.texts import LANGUAGES, Texts

_AT_ONCE = 20  # conversations, and so many more at each press


def choose_language() -> Texts:
    """The language of the page, which the address keeps."""
    st.session_state.setdefault("language", Texts(st.query_params.get("lang", "en")).language)
    say = Texts(st.session_state.language)
    if say.language != "en" or "lang" in st.query_params:
        st.query_params["lang"] = say.language
    return say


def show_head(say: Texts) -> None:
    """Name and language."""
    st.title(say("title"), anchor=False)
    st.caption(say("tagline"))
    st.segmented_control(
        say("language"),
        list(LANGUAGES),
        format_func=lambda key: LANGUAGES[key],
        key="language",
        required=True,
    )


# Conversations


def show_conversations(server: Server, say: Texts, shown: str | None) -> None:
    """The list, with what can be done with the one that is shown.

    Args:
        shown: id of the conversation in the page.
    """
    st.button(say("new"), icon=":material/add:", key="new", width="stretch", on_click=show_conversation, args=(None,))
    search = st.text_input(say("search"), key="search", icon=":material/search:")
    found = server.store.list(search or None)
    if not found:
        st.caption(say("none_found" if search else "none_yet"))
    most = st.session_state.get("listed", _AT_ONCE)
    with st.container(gap=None, key="conversations"):
        for summary in found[:most]:
            st.button(
                _short(summary.title or say("untitled")),
                key=f"open-{summary.id}",
                help=f"{summary.title} · {datetime.fromtimestamp(summary.changed):%Y-%m-%d %H:%M}",
                type="primary" if summary.id == shown else "tertiary",
                width="stretch",
                on_click=show_conversation,
                args=(summary.id,),
            )
    if len(found) > most:
        st.button(say("more"), key="more", on_click=lambda: st.session_state.update(listed=most + _AT_ONCE))
    current = next((summary for summary in found if summary.id == shown), None)
    if current is not None:
        _manage(server, say, current.id, current.title)
    _import(server, say)


def _manage(server: Server, say: Texts, chat_id: str, title: str) -> None:
    with st.expander(say("manage"), icon=":material/more_horiz:"):
        name = st.text_input(say("name"), title, key=f"name-{chat_id}", max_chars=200)
        st.button(say("rename"), key="rename", on_click=_rename, args=(server, chat_id, name))
        for ending in ("json", "zip"):
            st.download_button(
                f"{say('export')} .{ending}",
                partial(_exported, server, chat_id, ending),
                file_name=f"{_file_name(title)}.{ending}",
                key=f"export-{ending}",
                on_click="ignore",
            )
        if st.session_state.get("deleting") != chat_id:
            st.button(
                say("delete"),
                icon=":material/delete:",
                key="delete",
                on_click=lambda: st.session_state.update(deleting=chat_id),
            )
            return
        st.warning(say("delete_sure"))
        with st.container(horizontal=True):
            st.button(say("delete_yes"), key="delete-yes", type="primary", on_click=_delete, args=(server, chat_id))
            st.button(say("cancel"), key="delete-no", on_click=lambda: st.session_state.pop("deleting", None))


def _rename(server: Server, chat_id: str, name: str) -> None:
    try:
        server.store.rename(chat_id, name.strip())
    except AssistantError as error:
        show_error(str(error))
        return
    if (session := server.sessions.get(chat_id)) is not None:
        session.conversation.title = name.strip()


def _delete(server: Server, chat_id: str) -> None:
    st.session_state.pop("deleting", None)
    if (session := server.sessions.pop(chat_id, None)) is not None:
        session.stop()
    if (answering := server.answers.pop(chat_id, None)) is not None:
        answering.wait(5)  # what it still writes must not bring the conversation back
    try:
        server.store.delete(chat_id)
    except AssistantError as error:
        show_error(str(error))
    show_conversation(None)


def _exported(server: Server, chat_id: str, ending: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"chat.{ending}"
        server.store.export(chat_id, path)
        return path.read_bytes()


def _import(server: Server, say: Texts) -> None:
    with st.expander(say("import"), icon=":material/upload:"):
        turn = st.session_state.setdefault("imports", 0)
        file = st.file_uploader(say("import_file"), ["json", "zip"], key=f"import-{turn}")
    if file is None:
        return
    st.session_state.imports += 1  # an empty uploader next time
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"chat{Path(file.name).suffix.lower()}"
        path.write_bytes(file.getvalue())
        try:
            st.session_state.opening = server.store.import_(path).id
        except AssistantError as error:
            show_error(str(error).replace(str(path), file.name))
    st.rerun()


def open_imported() -> None:
    """Show the conversation that was just brought in; before the widgets of a run."""
    if (chat_id := st.session_state.pop("opening", None)) is not None:
        show_conversation(chat_id)


def _short(title: str) -> str:
    line = " ".join(title.split())
    line = line if len(line) <= 34 else line[:33] + "…"
    return "".join("\\" + letter if letter in r"\`*_[]:$~#<>" else letter for letter in line)


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() or letter in " -_" else "-" for letter in title)[:60].strip() or "chat"


# Model and parameters


def choose_model(say: Texts) -> str:
    """The name of the model that this tab asks."""
    name = st.session_state.setdefault("model", first_model())
    with st.expander(f"{say('model')}: {name.rsplit('/', 1)[-1]}", icon=":material/memory:"), st.form("model-form"):
        wanted = st.text_input(say("model"), name, help=say("model_help"), key="model-name")
        if st.form_submit_button(say("model_load")) and wanted.strip() and wanted.strip() != name:
            st.session_state.model = wanted.strip()
            st.rerun()
    return name


def show_loading(name: str, say: Texts) -> None:
    """How far a model is; returns when it is there, and ends the run where it was not at once."""
    coming = loading(name)
    if coming.wait(0) and coming.error is None:
        return
    place = st.empty()
    while not coming.wait(0.2):
        part, stage, share = coming.stage
        place.progress(0.0 if share is None else share, say(f"stage_{stage}", name=part))
    place.empty()
    if coming.error is None:
        st.rerun()
    st.error(say("load_failed", reason=coming.error), icon=":material/error:")

    def again() -> None:
        loading.clear(name)
        st.session_state.model = first_model()

    st.button(say("retry"), key="retry", on_click=again)
    st.stop()


def show_parameters(page: Page) -> None:
    """Options of the answers and the system prompt."""
    say, default = page.say, Options()
    with st.expander(say("parameters"), icon=":material/tune:"):
        turn = st.session_state.setdefault("resets", 0)

        def key(name: str) -> str:
            return f"option-{name}-{turn}"

        given = {
            "max_new_tokens": st.number_input(
                say("max_new_tokens"), 1, 8192, default.max_new_tokens, key=key("max_new_tokens")
            ),
            "temperature": st.slider(say("temperature"), 0.0, 2.0, default.temperature, 0.05, key=key("temperature")),
            "top_p": st.slider(say("top_p"), 0.01, 1.0, default.top_p, 0.01, key=key("top_p")),
            "top_k": st.number_input(say("top_k"), 0, 100000, default.top_k, key=key("top_k")),
            "min_p": st.slider(say("min_p"), 0.0, 1.0, default.min_p, 0.01, key=key("min_p")),
            "repetition_penalty": st.slider(
                say("repetition_penalty"), 0.5, 2.0, default.repetition_penalty, 0.05, key=key("repetition_penalty")
            ),
            "beams": st.number_input(say("beams"), 1, 16, default.beams, key=key("beams")),
            "seed": st.number_input(say("seed"), 0, 2**32 - 1, None, key=key("seed")),
            "time_limit": st.number_input(say("time_limit"), 0.1, None, None, key=key("time_limit")),
            "stop": tuple(filter(None, st.text_area(say("stop_strings"), key=key("stop")).splitlines())),
        }
        try:
            st.session_state.options = make_options(given)
        except InputError as error:
            st.error(str(error))
        st.button(say("reset"), key="reset", on_click=lambda: st.session_state.update(resets=turn + 1))

    with st.expander(say("system"), icon=":material/psychology:"):
        text = st.text_area(say("system"), page.session.system or "", key=f"system-{page.id}")
        if text != (page.session.system or ""):
            page.session.system = text or None
            st.query_params[CHAT] = page.id
