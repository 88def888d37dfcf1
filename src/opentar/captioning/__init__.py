"""Captions of many pictures: which ones (`listing.py`), what is in them (`captions.py`), and the file of results.

A job writes every caption into a journal when it is known (`journal.py`) and makes the file of it at the end
(`tables.py`); `job.py` puts them together.
"""
