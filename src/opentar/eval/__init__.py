"""Scores: metrics that need no judge, answers of a model to many questions, reports and sheets to look at."""
