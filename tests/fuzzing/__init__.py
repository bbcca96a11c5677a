"""Files that are wrong in every way that can be thought of or drawn, and what reading them does.

`seeds` are sound files, `mutations` and `bombs` spoil them, `draw` chooses, `outcomes` reads one
and says what came. tests/data/test_bad_input.py reads some hundred, benchmarks/fuzz.py thousands.
"""
