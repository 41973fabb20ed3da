"""Text: files that the user has, generated stand-ins in the same format, and what parses both. No torch."""
