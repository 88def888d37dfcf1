"""Whatever a language model is asked to do is a request; the engine batches requests and tells events as they run.

`request.py` and `events.py` are the data, `engine.py` the loop, `backends/` run the language model behind one protocol.
"""
