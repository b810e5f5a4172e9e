"""Everything that prints or draws: terminal, Markdown, HTML, JSON and CSV."""
