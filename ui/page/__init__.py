"""The chat page, which `assistant ui` starts. It needs the extra ``ui``: its modules import streamlit at their top."""
