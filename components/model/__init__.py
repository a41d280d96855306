"""Ground floor: the joined model (encoder, projector, LLM), its prompt, its search, and what every training needs."""
