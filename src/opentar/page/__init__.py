"""The page: draw, ask and look at the dialect in a browser, on the service of `opentar serve`.

`asked.py` is what the page asks a service for, `dialect.py`, `overlay.py` and `live.py` what it computes itself; they
know no Gradio. `tabs/` holds one tab a file, `app.py` puts them together and mounts them.
"""
