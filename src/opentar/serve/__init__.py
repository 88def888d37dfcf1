"""The server: one service that owns models and runs requests on them, and HTTP routes in OpenAI's shapes around it.

`service.py` knows no HTTP and is what a page or another front uses too; `app.py` puts the routes of `routes/` together.
"""
