"""`report.html`: runs as one page that needs nothing beside it."""
