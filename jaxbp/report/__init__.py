"""What was measured, for people: pandas frames, Markdown and plots."""
