"""The page to try detectors on: logic free of gradio, one file that builds the page, a server.

`limits` says what may come in, `models` looks at pictures, `session` remembers what was seen,
`compare` tells models apart, `views` and `results` write it down; `guard` guards the server that
`serve` runs, and `page` alone knows gradio.
"""
