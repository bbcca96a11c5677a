"""Pictures, figures and pages from plain tables."""
