"""Ossa: which backbone should my detector have?"""

__version__ = "0.1.0"
