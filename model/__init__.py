"""A complete GPT-2 trainer in which every speedrun trick is a toggle; useful on its own."""
