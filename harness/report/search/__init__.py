"""Shows a search: its plan, its progress, and its result as a document and as files."""
