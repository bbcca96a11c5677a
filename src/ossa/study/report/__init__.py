"""The report of a study: one page that needs nothing beside it, its figures and its tables."""
