"""What `ossa data check` looks at, one module a part of a data set.

`run` checks the splits of a description; `findings` holds the words for what is found; `images`,
`boxes`, `classes` and `files` find it; `statistics` describes what is in order; `fixing` writes a
cleaned copy; `page`, `figures` and `pictures` show it all.
"""
