"""Ground floor: the joined model (encoder, projector, LLM), its prompt, and its folders."""

import os

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read where huggingface_hub is first imported
