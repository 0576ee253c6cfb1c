"""What all tests share."""

import os

# Before anything imports huggingface_hub, which reads it once: no test may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
