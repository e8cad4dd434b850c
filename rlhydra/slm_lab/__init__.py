"""SLM Lab's spec files, and what they are here."""
